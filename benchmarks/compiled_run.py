"""A prepared run against ``sample``: the MNIST U-Net and a small policy network, in one run.

    python benchmarks/compiled_run.py [--quick]

``pipeline.compile`` compiles the network once; a call then draws noise, runs the steps and checks the result. Seconds
of a whole call, interleaved with those of ``sample`` and of diffusers' own loop around the same network. The time of
the compilation is listed beside them.
"""

from __future__ import annotations

import argparse
import time

import diffusers
import torch
from common import interleaved, machine, table
from torch import Tensor, nn

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.models import mnist_unet


class Policy(nn.Module):
    """An action sequence (B, 16, 14) from a state of 64 numbers: a 1-D convolutional network of 5 M weights."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.into, self.out = nn.Conv1d(14, width, 5, padding=2), nn.Conv1d(width, 14, 5, padding=2)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(6))
        self.of_time = nn.Linear(65, width)

    def forward(self, x: Tensor, t: Tensor, observation: Tensor | None = None) -> Tensor:
        seen = x.new_zeros(len(x), 64) if observation is None else observation
        told = self.of_time(torch.cat([t[:, None].to(x.dtype) / 1000.0, seen], dim=1))[:, :, None]
        h = self.into(x.transpose(1, 2))
        for block in self.blocks:
            h = h + torch.nn.functional.mish(block(h) + told)
        return self.out(h).transpose(1, 2)


def theirs(network: nn.Module, shape: tuple[int, ...], steps: int) -> object:
    """One run of diffusers' DDIM around a network."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")

    def call() -> Tensor:
        scheduler.set_timesteps(steps)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample
        return x

    return call


class Unconditional(nn.Module):
    """The U-Net as a function of (x, t) that returns a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mnist_unet()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches and rounds")
    quick = parser.parse_args().quick
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), "ddim")
    torch.manual_seed(0)
    cases = [("policy, 5 M weights", Policy().eval(), (1, 16, 14), 10)]
    unet = Unconditional().eval()
    cases += [("MNIST U-Net", unet, (batch, 1, 28, 28), 10) for batch in ((1,) if quick else (1, 4, 16))]
    rows = []
    with torch.no_grad():
        for name, network, shape, steps in cases:
            began = time.perf_counter()
            fast = pipeline.compile(network, shape, steps)
            fast(0)
            compilation = time.perf_counter() - began
            seconds = interleaved(
                {
                    "compiled": lambda fast=fast: fast(0),
                    "sample": lambda n=network, s=shape, k=steps: pipeline.sample(n, s, k, seed=0),
                    "diffusers": theirs(network, shape, steps),
                },
                rounds=5 if quick else 15,
            )
            rows.append((
                name, str(shape), str(steps), *(f"{1e3 * each:.1f}" for each in seconds.values()),
                f"{seconds['sample'] / seconds['compiled']:.2f}", f"{seconds['diffusers'] / seconds['compiled']:.2f}",
                f"{compilation:.0f} s",
            ))  # fmt: skip
    print(machine())
    head = ("network", "shape", "steps", "compiled, ms", "sample, ms", "diffusers, ms", "sample/compiled")
    print(table((*head, "diffusers/compiled", "compilation"), rows))


if __name__ == "__main__":
    main()
