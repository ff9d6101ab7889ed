"""What a step costs beyond the model: ours, diffusers', and one fused multiply-add, in one run.

    python benchmarks/step_overhead.py [--device cpu|cuda] [--quick] [--calls]

Ours is the loop of ``pipeline.sample`` over a plan of 50 steps with a model that returns
stored tensors, its checks and the final read for NaN included. diffusers' is its own loop of
``scale_model_input`` and ``step``. The floor is ``torch.add(x, y, alpha=c)``, the least that
any step must do. The noise of stochastic samplers is drawn beforehand on both sides; what
drawing it costs, and what a whole ``sample`` call costs beyond its steps, is printed below.
``--calls`` measures these calls alone.

On the CPU, glibc hands large blocks back to the system and asks for them again, which costs
more than a step; whether it does depends on the heap's history. So that all contenders meet
the same conditions it is told to keep them (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_).
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from functools import partial

import diffusers
import torch
from common import interleaved, machine, table

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.running.bound_plan import bind_for
from noise_scheduler_sampling_system.running.loop import RowState, run_rows
from noise_scheduler_sampling_system.running.noise import NoiseSource

STEPS = 50
SHAPES = [(1, 4, 64, 64), (4, 4, 128, 128), (16, 16, 128, 128)]
VP = {"beta_start": 1e-4, "beta_end": 0.02}
CLIP = {"clip_sample": False}
#: (sampler, options, config) of ours; (class, settings, options of step) of theirs.
PAIRS = [
    ("ddim", {}, {}, diffusers.DDIMScheduler, VP | CLIP, {}),
    ("euler", {}, {}, diffusers.EulerDiscreteScheduler, VP, {}),
    ("heun", {}, {}, diffusers.HeunDiscreteScheduler, VP, {}),
    ("pndm", {}, {}, diffusers.PNDMScheduler, VP | {"skip_prk_steps": True}, {}),
    ("lms", {"start": "plain"}, {}, diffusers.LMSDiscreteScheduler, VP, {}),
    ("deis", {"order": 2, "polynomial": "log_rho"}, {}, diffusers.DEISMultistepScheduler, VP, {}),
    ("dpm2", {}, {}, diffusers.KDPM2DiscreteScheduler, VP, {}),
    ("dpmpp_2m", {}, {}, diffusers.DPMSolverMultistepScheduler, VP, {}),
    ("dpmpp_3m", {}, {}, diffusers.DPMSolverMultistepScheduler, VP | {"solver_order": 3}, {}),
    ("dpmpp_2s", {}, {}, diffusers.DPMSolverSinglestepScheduler, VP, {}),
    ("unipc", {"order": 2}, {}, diffusers.UniPCMultistepScheduler, VP, {}),
    ("unipc", {}, {}, diffusers.UniPCMultistepScheduler, VP | {"solver_order": 3}, {}),
    ("euler", {}, {"beta_schedule": "flow"}, diffusers.FlowMatchEulerDiscreteScheduler, {}, {}),
    ("flow_heun", {}, {"beta_schedule": "flow"}, diffusers.FlowMatchHeunDiscreteScheduler, {}, {}),
    ("ddim", {"eta": 1.0}, {}, diffusers.DDIMScheduler, VP | CLIP, {"eta": 1.0}),
    ("ancestral", {}, {}, diffusers.EulerAncestralDiscreteScheduler, VP, {}),
    ("ddpm", {}, {}, diffusers.DDPMScheduler, VP | CLIP, {}),
    ("dpm2_ancestral", {}, {}, diffusers.KDPM2AncestralDiscreteScheduler, VP, {}),
    ("dpmpp_2m_sde", {}, {}, diffusers.DPMSolverMultistepScheduler, VP | {"algorithm_type": "sde-dpmsolver++"}, {}),
    ("sa_solver", {}, {}, diffusers.SASolverScheduler, VP, {}),
    ("lcm", {"timestep_scaling": 10.0}, {}, diffusers.LCMScheduler, VP | {"original_inference_steps": 50}, {}),
    ("tcd", {}, {}, diffusers.TCDScheduler, VP | {"original_inference_steps": 50}, {}),
]


def their_loop(cls, settings, step_options, x, outputs):
    scheduler = cls(**settings)
    scheduler.set_timesteps(STEPS, device=x.device)
    times = list(scheduler.timesteps)
    module = sys.modules[cls.__module__]
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = lambda *_, **__: outputs[0]
    fresh = {name: copy.copy(value) for name, value in vars(scheduler).items()}

    def loop():
        vars(scheduler).update({n: copy.copy(v) if isinstance(v, list) else v for n, v in fresh.items()})
        y = x
        for i, t in enumerate(times):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(y, t)
            y = scheduler.step(outputs[i % 8], t, y, **step_options).prev_sample

    return loop, len(times)


def our_loop(bound, x, outputs):
    with torch.no_grad():
        for _ in run_rows(bound, lambda x, row: outputs[row % 8], RowState(0, x, {}), lambda step, stage: outputs[0]):
            pass


def floor_loop(x, outputs):
    for i in range(STEPS):
        x = torch.add(x, outputs[i % 8], alpha=0.5)


def measure(device: torch.device, rounds: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for shape in SHAPES:
        x, *outputs = (torch.randn(shape, device=device) for _ in range(9))
        for method, options, config, cls, settings, step_options in PAIRS:
            pipeline = DiffusionPipeline(NoiseSchedulerConfig(**config), method, **options)
            plan = pipeline.plan(STEPS)
            loop, calls = their_loop(cls, settings, step_options, x, outputs)

            bound = bind_for(plan, pipeline.config)

            ours, floor = partial(our_loop, bound, x, outputs), partial(floor_loop, x, outputs)
            candidates = {"ours": ours, "theirs": loop, "floor": floor}
            if device.type == "cuda":
                candidates = {k: (lambda f=f: (f(), torch.cuda.synchronize())) for k, f in candidates.items()}
            seconds = interleaved(candidates, rounds)
            a, b, c = seconds["ours"] / plan.nfe, seconds["theirs"] / calls, seconds["floor"] / STEPS
            name = method + "".join(f" {k}={v}" for k, v in options.items()) + (" flow" if config else "")
            rows.append(
                [shape, name, f"{a * 1e6:.1f}", f"{b * 1e6:.1f}", f"{c * 1e6:.1f}", f"{b / a:.1f}", f"{a / c:.2f}"]
            )
    return rows


def keep_memory() -> None:
    """Start again with an allocator that keeps large blocks."""
    wanted = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--calls", action="store_true", help="only what a call costs beyond its steps")
    arguments = parser.parse_args()
    keep_memory()
    print(machine(), f"diffusers {diffusers.__version__}", sep=", ")
    if arguments.calls:
        print_calls(torch.device(arguments.device))
        return
    print("microseconds per model call, without the model\n")
    device = torch.device(arguments.device)
    rows = measure(device, 5 if arguments.quick else 15)
    head = ["shape", "sampler", "ours", "diffusers", "floor", "diffusers/ours", "ours/floor"]
    print(table(head, rows))
    once(device)


def once(device: torch.device) -> None:
    """What is paid once a plan, once a call, and once a noise."""
    samplers = {m: DiffusionPipeline(NoiseSchedulerConfig(), m).sampler for m in ("ddim", "ddpm", "heun", "pndm")}
    seconds = interleaved({m: (lambda s=s: s.plan(50)) for m, s in samplers.items()})
    print("\nbuilding a 50-step plan, ms:", ", ".join(f"{m} {1e3 * s:.1f}" for m, s in seconds.items()))
    print_calls(device)
    for shape in SHAPES:
        source = NoiseSource(tuple((1, i) for i in range(shape[0])), shape[1:], device=device)
        generator = torch.Generator(device)
        seconds = interleaved({
            "keyed": lambda s=source: s(0, 0),
            "torch.randn": lambda s=shape, g=generator: torch.randn(s, generator=g, device=device),
        })  # fmt: skip
        print(f"noise {shape}, µs:", ", ".join(f"{name} {1e6 * s:.0f}" for name, s in seconds.items()))


class ManyModules(torch.nn.Module):
    """A network of 600 modules that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(600))

    def forward(self, x, t):
        return x


def print_calls(device: torch.device) -> None:
    """What a call costs beyond its steps; the plans are made before."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    plans = {n: DiffusionPipeline(NoiseSchedulerConfig(), "ddim").plan(n) for n in (10, 110)}
    seeded = {"shape": (1, 2), "seed": 3} | ({} if device.type == "cpu" else {"device": device})
    kinds = {
        "": (lambda x, t: x, {"initial_noise": torch.randn(SHAPES[0], device=device)}),
        " of a state (1, 2) from a seed": (lambda x, t: x, seeded),
        " of it with plan=": (lambda x, t: x, seeded | {"plan": plans}),
        " of it with a condition and guidance": (
            lambda x, t, c: x, seeded | {"condition": {"c": torch.randn(1, 3, device=device)}, "guidance_scale": 3.0},
        ),
        " of it with a network of 600 modules": (ManyModules().eval().to(device), seeded),
    }  # fmt: skip

    def call(model, options, n):
        given = {**options, "plan": plans[n]} if "plan" in options else options
        return partial(pipeline.sample, model, num_inference_steps=n, **given)

    for name, (model, options) in kinds.items():
        seconds = interleaved({n: call(model, options, n) for n in (10, 110)})
        fixed = seconds[10] - (seconds[110] - seconds[10]) / 10
        print(f"a whole sample() call{name} beyond its steps, µs: {1e6 * fixed:.0f}")


if __name__ == "__main__":
    main()
