"""The picture of README.md: samplers with five model calls, on the trained network and on the exact model of digits.

    python benchmarks/few_calls.py [--out docs/images/few-calls.png]

Every row begins with the same noise and calls the model as often. The plans of diffusers are read off its schedulers,
with their default settings. The last row is what this library brings: on the network the sampler and grid that
benchmarks/calibration.py found to be the best there, on the exact model a calibrated plan. This command made
its file, from other noise than that of the picture:

    noise-sampling calibrate --model digits --nfe 5 --labels 0,1,2,3,4,5,6,7,8,9 --guidance-scale 1 \\
        --budget-seconds 150 --out docs/data/plan-digits-5.json
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, PlanSet, SamplingPlan, models
from noise_scheduler_sampling_system.comparison import compare
from noise_scheduler_sampling_system.support.figures import Pixels, difference_mosaic, draw_rows, mosaic

ROOT = Path(__file__).parents[1]
CALLS = 5
#: Digits that are measured, and those of them that are shown, two rows of five.
MEASURED, SHOWN = 20, 10
SEED = 7
#: The pixels of a digit in the picture: a multiple of 28 and of 8.
SIDE = 56
LABELS = torch.arange(MEASURED) % 10
ROWS = (
    ("PNDM of diffusers", "its default settings"),
    ("DDIM of diffusers", "its default settings"),
    ("DPM++ 2M Karras", "as web interfaces have it"),
    ("DPM-Solver++ of diffusers", "its default settings"),
    ("this library", "left SA-Solver, right calibrated"),
)


@dataclass(frozen=True)
class Panel:
    """The samplers on one model.

    Attributes:
        samples: by row of :data:`ROWS`, shape (20, 1, H, W).
        errors: the median and root mean square error of each row, over digits.
        target: the solution that all of them approximate.
    """

    samples: list[Tensor]
    errors: list[tuple[float, float]]
    target: Tensor


def built_in() -> SamplingPlan:
    """SA-Solver without noise: at five calls the best built-in sampler on the network, with its grid."""
    config = NoiseSchedulerConfig(
        prediction_type="v_prediction", timestep_spacing="leading_dpm", spacing_options={"end": "lowest"}
    )
    return DiffusionPipeline(config, "sa_solver", tau=0.0).plan(CALLS)


def plans(prediction_type: str, ours: SamplingPlan) -> dict[str, SamplingPlan]:
    """A plan of five calls for each row, on the linear schedule of diffusers' defaults."""
    told: dict[str, Any] = {"prediction_type": prediction_type}
    config = NoiseSchedulerConfig(prediction_type=prediction_type)
    made = (
        SamplingPlan.trace(PNDMScheduler(skip_prk_steps=True, **told), CALLS - 1),  # its first step takes two calls
        SamplingPlan.trace(DDIMScheduler(clip_sample=False, **told), CALLS),
        DiffusionPipeline(config, "DPM++ 2M Karras").plan(CALLS),
        SamplingPlan.trace(DPMSolverMultistepScheduler(**told), CALLS),
        ours,
    )
    return {name: plan for (name, _), plan in zip(ROWS, made, strict=True)}


def panel(model: str, ours: SamplingPlan, scale: float) -> Panel:
    """All rows on one model, "mnist" or "digits"."""
    trained = model == "mnist"
    config = NoiseSchedulerConfig(prediction_type="v_prediction" if trained else "epsilon")
    network = models.mnist_unet() if trained else None
    shape = (MEASURED, 1, 28, 28) if trained else (MEASURED, 1, 8, 8)
    table = plans(config.prediction_type, ours)
    assert {plan.nfe for plan in table.values()} == {CALLS}
    found = compare(
        table, network, nfe=CALLS, shape=shape, condition={"class_labels": LABELS}, guidance_scale=scale, seed=SEED,
        config=config, reference_calls=40,
    )  # fmt: skip
    cells = [found.cell(name, CALLS) for name in table]
    reference = next(iter(found.references.values()))
    samples = [cell.samples for cell in cells if cell.samples is not None]
    return Panel(samples, [(cell.median, cell.rms) for cell in cells], reference.samples[0])


def pictures(samples: Tensor, target: Tensor) -> tuple[Pixels, Pixels]:
    """Ten digits, and their difference to the target: red where there is too much ink, blue where it is missing."""
    factor = SIDE // samples.shape[-1]
    large, aim = (
        each[:SHOWN].double().repeat_interleave(factor, 2).repeat_interleave(factor, 3) for each in (samples, target)
    )
    return mosaic(large, SHOWN // 2), difference_mosaic(aim - large, SHOWN // 2)


def note(errors: tuple[float, float], samples: Tensor, *, judged: bool) -> str:
    """The error below a picture, and how many of the digits a classifier reads as asked."""
    if not judged:
        return f"error {errors[0]:.2g}"
    with torch.no_grad():
        read = int((models.mnist_classifier()(samples.float()).argmax(1) == LABELS).sum())
    return f"error {errors[0]:.2g}, {read}/{MEASURED} read as asked"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/few-calls.png")
    out = parser.parse_args().out
    panels = [
        panel("mnist", built_in(), 2.0),
        panel("digits", PlanSet.load(ROOT / "docs/data/plan-digits-5.json")[CALLS], 1.0),
    ]
    drawn, notes = [], []
    for i in range(len(ROWS)):
        drawn.append([part for each in panels for part in pictures(each.samples[i], each.target)])
        texts = [note(each.errors[i], each.samples[i], judged=each is panels[0]) for each in panels]
        notes.append([texts[0], "difference", texts[1], "difference"])
        print(ROWS[i][0], *(f"median {median:.3f} rms {rms:.3f};" for median, rms in (p.errors[i] for p in panels)))
    blank = np.ones_like(drawn[0][0])
    drawn.append([part for each in panels for part in (pictures(each.target, each.target)[0], blank)])
    notes.append(["40 calls of a sampler of order 3", "", "exact solution", ""])
    draw_rows(
        out,
        title=f"The same noise, the same model, {CALLS} model calls",
        subtitle="Left: a trained U-Net of 28×28 digits with guidance 2. Right: an exact model of 8×8 digits.\n"
        f"The error is the median of {MEASURED} digits, root mean square over the pixels in [−1, 1].\n"
        "In the difference, red is too much ink and blue is missing ink.",
        headings=["trained U-Net", "", "exact model", ""],
        labels=[*map(list, ROWS), ["target", "what all of them approximate"]],
        pictures=drawn,
        notes=notes,
    )


if __name__ == "__main__":
    main()
