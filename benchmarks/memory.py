"""Peak memory of a run beyond the model, in units of one sample tensor.

    python benchmarks/memory.py

Counted from PyTorch's own record of every allocation on the CPU (``torch.profiler``), over a
whole ``pipeline.sample`` call. The model returns a new tensor each call, which counts. The
bound is the plan's history + 3: the state, the model's output, the next state.
"""

from __future__ import annotations

import torch
from common import machine, table
from torch.profiler import ProfilerActivity, profile

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig

SHAPE = (2, 4, 256, 256)
STEPS = 20


def peak(call) -> int:
    """The most bytes that were allocated at once during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    now = highest = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


def main() -> None:
    print(machine())
    unit = torch.Size(SHAPE).numel() * 4
    rows = []
    for method, options in (
        ("ddim", {}), ("euler", {}), ("ddpm", {}), ("ancestral", {}), ("heun", {}), ("pndm", {}),
        ("pndm", {"skip_prk_steps": False}),
    ):  # fmt: skip
        for clip in (False, True):
            pipeline = DiffusionPipeline(NoiseSchedulerConfig(clip_sample=clip), method, **options)
            plan = pipeline.plan(STEPS)
            noise = torch.randn(SHAPE)
            used = peak(
                lambda p=pipeline, n=noise: p.sample(
                    lambda x, t: torch.sin(x), num_inference_steps=STEPS, initial_noise=n
                )
            )
            name = method + "".join(f" {k}={v}" for k, v in options.items())
            rows.append([name, "yes" if clip else "no", plan.history, plan.history + 3, f"{used / unit:.2f}"])
    print(table(["sampler", "clipping", "history", "bound", "peak"], rows))


if __name__ == "__main__":
    main()
