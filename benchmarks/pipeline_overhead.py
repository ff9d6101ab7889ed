"""What a scheduler costs a whole pipeline: ours in diffusers' place against diffusers' own, in one run.

    python benchmarks/pipeline_overhead.py [--device cpu|cuda] [--quick]

Both are driven as pipelines drive them: ``scale_model_input`` and ``step(..., return_dict=False)[0]`` for every
entry of ``timesteps``, with a network that returns stored tensors. A loop begins with ``set_timesteps``, as every
call of a pipeline does; what that part costs is reported beside it. Noise is drawn from a generator on both
sides, as a pipeline does, and then again with the drawing left out, since it is the same work on both.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from functools import partial
from typing import Any

import diffusers
import torch
from common import interleaved, machine, table
from step_overhead import keep_memory

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from noise_scheduler_sampling_system.integrations.diffusers.scheduler import timestep_list as ours_module

STEPS = 50
SHAPES = [(1, 4, 8, 8), (1, 4, 64, 64)]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
KARRAS = {"use_karras_sigmas": True}
#: (class, settings, options of set_timesteps, options of step)
TWINS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("DDIMScheduler", SD | LEADING | {"clip_sample": False}, {}, {"eta": 0.0}),
    ("DDIMScheduler", SD | LEADING | {"clip_sample": False}, {}, {"eta": 1.0}),
    ("DDIMScheduler", SD | LEADING | {"clip_sample": True}, {}, {"eta": 0.0}),
    ("DDPMScheduler", SD | LEADING | {"clip_sample": False}, {}, {}),
    ("PNDMScheduler", SD | LEADING | {"skip_prk_steps": True}, {}, {}),
    ("EulerDiscreteScheduler", SD | LEADING, {}, {}),
    ("EulerDiscreteScheduler", SD | KARRAS, {}, {}),
    ("EulerAncestralDiscreteScheduler", SD | LEADING, {}, {}),
    ("HeunDiscreteScheduler", SD | LEADING, {}, {}),
    ("LMSDiscreteScheduler", SD | LEADING, {}, {}),
    ("KDPM2DiscreteScheduler", SD | LEADING, {}, {}),
    ("KDPM2AncestralDiscreteScheduler", SD | LEADING, {}, {}),
    ("DPMSolverSDEScheduler", SD | LEADING, {}, {}),
    ("DPMSolverMultistepScheduler", SD, {}, {}),
    ("DPMSolverMultistepScheduler", SD | KARRAS, {}, {}),
    ("DPMSolverMultistepScheduler", SD | {"solver_order": 3, "solver_type": "heun"}, {}, {}),
    ("DPMSolverMultistepScheduler", SD | {"algorithm_type": "sde-dpmsolver++"}, {}, {}),
    ("DPMSolverMultistepScheduler", FLOW, {}, {}),
    ("DPMSolverSinglestepScheduler", SD, {}, {}),
    ("DEISMultistepScheduler", SD, {}, {}),
    ("UniPCMultistepScheduler", SD, {}, {}),
    ("UniPCMultistepScheduler", SD | {"solver_order": 3}, {}, {}),
    ("SASolverScheduler", SD, {}, {}),
    ("LCMScheduler", SD, {}, {}),
    ("TCDScheduler", SD, {}, {"eta": 0.3}),
    ("IPNDMScheduler", {}, {}, {}),
    ("EDMEulerScheduler", {}, {}, {}),
    ("EDMDPMSolverMultistepScheduler", {}, {}, {}),
    ("CosineDPMSolverMultistepScheduler", {}, {}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {"mu": 0.8}, {}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, {}, {}),
    ("FlowMatchLCMScheduler", {"shift": 3.0}, {}, {}),
]


def drive(scheduler: Any, x: torch.Tensor, outputs: list[torch.Tensor], setting: dict[str, Any], **step: Any) -> None:
    """The denoising loop of a pipeline, with its network left out."""
    scheduler.set_timesteps(STEPS, device=x.device, **setting)
    scales = hasattr(scheduler, "scale_model_input")
    latents = x
    for i, t in enumerate(scheduler.timesteps):
        if scales:
            scheduler.scale_model_input(latents, t)
        latents = scheduler.step(outputs[i % 8], t, latents, **step, return_dict=False)[0]


def pair(name: str, settings: dict[str, Any], step: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Theirs, ours, and what their steps are told."""
    theirs = getattr(diffusers, name)(**settings)
    if "generator" in inspect.signature(theirs.step).parameters:
        step = {**step, "generator": torch.Generator().manual_seed(0)}
    return theirs, PlanScheduler.from_config(theirs), step


def measure(shape: tuple[int, ...], device: torch.device, rounds: int, draws: bool) -> list[list[object]]:
    rows: list[list[object]] = []
    x, *outputs = (torch.randn(shape, device=device) for _ in range(9))

    def timed(name: str, settings: dict[str, Any], setting: dict[str, Any], step: dict[str, Any]) -> dict[str, float]:
        theirs, ours, told = pair(name, settings, step)

        def whole(scheduler: Any) -> None:
            drive(scheduler, x, outputs, setting, **told)
            if device.type == "cuda":
                torch.cuda.synchronize()

        def once(scheduler: Any) -> None:
            scheduler.set_timesteps(STEPS, device=device, **setting)

        contenders = {
            "ours": partial(whole, ours), "theirs": partial(whole, theirs),
            "ours once": partial(once, ours), "theirs once": partial(once, theirs),
        }  # fmt: skip
        with quiet([sys.modules[type(theirs).__module__], ours_module], outputs[0], draws), torch.no_grad():
            return interleaved(contenders, rounds)

    for name, settings, setting, step in TWINS:
        seconds = timed(name, settings, setting, step)
        flags = ", ".join(f"{k}={v}" for k, v in {**settings, **step}.items() if k not in {**SD, **LEADING})
        a, b = seconds["ours"], seconds["theirs"]
        rows.append([
            f"{name.removesuffix('Scheduler')} {flags}".strip(), f"{1e3 * a:.2f}", f"{1e3 * b:.2f}", f"{b / a:.1f}",
            f"{1e3 * seconds['ours once']:.3f}", f"{1e3 * seconds['theirs once']:.3f}",
        ])  # fmt: skip
    return rows


class quiet:  # noqa: N801 - reads as a statement
    """While it is entered, modules draw a stored tensor in place of noise, unless they are to draw."""

    def __init__(self, modules: list[Any], noise: torch.Tensor, draws: bool) -> None:
        self._modules = [] if draws else [m for m in modules if hasattr(m, "randn_tensor")]
        self._noise = noise

    def __enter__(self) -> None:
        self._kept = [m.randn_tensor for m in self._modules]
        for module in self._modules:
            module.randn_tensor = lambda *_, **__: self._noise

    def __exit__(self, *_: object) -> None:
        for module, function in zip(self._modules, self._kept, strict=True):
            module.randn_tensor = function


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args()
    keep_memory()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    print(machine(), f"diffusers {diffusers.__version__}", sep=", ")
    head = ["twin", "ours", "theirs", "theirs/ours", "ours once", "theirs once"]
    for draws in (True, False):
        for shape in SHAPES:
            noise = "noise drawn by both" if draws else "noise drawn beforehand"
            print(f"\n{shape}, milliseconds of {STEPS} steps with set_timesteps (once: set_timesteps alone), {noise}\n")
            print(table(head, measure(shape, device, 3 if arguments.quick else 9, draws)))


if __name__ == "__main__":
    main()
