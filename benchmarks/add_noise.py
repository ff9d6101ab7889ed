"""What noising a batch costs in training code: ours, diffusers', and the bare gather, in one run.

    python benchmarks/add_noise.py [--device cpu|cuda]

Median microseconds of one call, the contenders in turn. "gather" is what a training script writes by hand,
two tables made beforehand and no check at all: ``a[t] * x0 + s[t] * noise``. Ours checks shapes and times (the
times not on a GPU, which would stall it). diffusers has no real times on its schedules with betas.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import diffusers
import torch
from common import interleaved, machine, table
from torch import Tensor

from noise_scheduler_sampling_system import FlowPath, LinearNoiseScheduler

SHAPES = [(16, 3, 32, 32), (4, 4, 64, 64), (64, 4, 64, 64)]


def candidates(shape: tuple[int, ...], device: str) -> dict[str, Callable[[], Tensor]]:
    """The calls to compare, on one batch."""
    x0, noise = torch.randn(shape, device=device), torch.randn(shape, device=device)
    t = torch.randint(0, 1000, shape[:1], device=device)
    ours, flow, theirs = LinearNoiseScheduler(), FlowPath(), diffusers.DDPMScheduler()
    a, s = (c.to(device, torch.float32) for c in (ours.alphas_cumprod.sqrt(), (1.0 - ours.alphas_cumprod).sqrt()))
    rows = (-1, *[1] * (len(shape) - 1))
    real = t.float()
    return {
        "gather": lambda: a[t].reshape(rows) * x0 + s[t].reshape(rows) * noise,
        "diffusers": lambda: theirs.add_noise(x0, noise, t),
        "ours": lambda: ours.add_noise(x0, noise, t),
        "ours, real times": lambda: ours.add_noise(x0, noise, real),
        "ours, flow": lambda: flow.add_noise(x0, noise, real),
        "ours, target": lambda: ours.target(x0, noise, t),
        "ours, velocity": lambda: ours.velocity(x0, noise, t),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    rows = []
    for shape in SHAPES:
        calls = candidates(shape, device)
        if device == "cuda":
            calls = {name: _synchronised(call) for name, call in calls.items()}
        seconds = interleaved(calls)
        rows.append([str(shape), *(f"{1e6 * value:.0f}" for value in seconds.values())])
    print(machine())
    print(table(["shape", *calls], rows))


def _synchronised(call: Callable[[], Tensor]) -> Callable[[], None]:
    def timed() -> None:
        call()
        torch.cuda.synchronize()

    return timed


if __name__ == "__main__":
    main()
