"""Plans designed without a model call, against Zolotarev's limit and against every classic sampler.

Part 1: Gaussian data with a power-law spectrum like that of images, on the EDM path: relative errors of designs, the
least that is possible, and the best built-in sampler of as many calls. Part 2: the digits on linear betas, of
which the design knows the covariance alone. All of it through ``pipeline.sample``, in float64.

    python benchmarks/design.py [--quick]
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from common import table
from torch import Tensor

from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    EDMPath,
    LinearNoiseScheduler,
    NoisePath,
    NoiseSamplingError,
    SamplingPlan,
)
from noise_scheduler_sampling_system.analysis.recommend import steps_within
from noise_scheduler_sampling_system.calibration import Spectrum, design_plan
from noise_scheduler_sampling_system.calibration.design import limit
from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.models import DigitsModel, GaussianModel
from noise_scheduler_sampling_system.models.digits import load_digits

NFE = (3, 4, 5, 6, 8, 10)
#: Samplers that are tried on the AYS levels, too, which win for few calls.
ON_AYS = ("dpmpp_2m", "dpmpp_3m", "dpm_3m", "unipc", "deis", "ipndm", "adams", "sa_solver", "gradient_estimation")


def classics(path: NoisePath, nfe: int) -> Iterator[tuple[str, SamplingPlan]]:
    """Every built-in sampler without noise on the good grids."""
    for baseline in baselines(path, nfe):
        yield baseline.name, baseline.plan
    for name in ON_AYS:
        for options in ({}, {"afs": True}):
            try:
                silent = {"tau": 0.0} if name == "sa_solver" else {}
                pipeline = DiffusionPipeline(path.spaced("ays"), name, **silent, **options)
                plan = pipeline.plan(steps_within(pipeline.sampler, nfe))
            except NoiseSamplingError:
                continue
            yield f"ays, {name}" + (" afs" if options else ""), plan


def gaussian(quick: bool) -> None:
    path, spectrum = EDMPath(), Spectrum.power_law()
    variances = torch.from_numpy(np.array(spectrum.eigenvalues))
    model = GaussianModel(path, torch.zeros_like(variances), variances, path.config.prediction_type)
    pipeline, noise = DiffusionPipeline(path), torch.ones(1, len(variances), dtype=torch.float64)
    start = path.level(path.t_max)
    scale = math.hypot(start.alpha, start.sigma)
    exact = scale * (variances / (start.alpha**2 * variances + start.sigma**2)).sqrt()

    def errors(plan: SamplingPlan) -> tuple[float, float]:
        result = pipeline.sample(model, initial_noise=noise, plan=plan, dtype=torch.float64)[0]
        relative = (result - exact) / exact
        return float(relative.abs().max()), float(((relative**2 * variances).sum() / variances.sum()).sqrt())

    rows = []
    for nfe in (5,) if quick else NFE:
        design = functools.partial(design_plan, spectrum, nfe, path)
        free, safe = errors(design(mean_safe=False)), errors(design())
        rms, rms_safe = errors(design(criterion="rms", mean_safe=False)), errors(design(criterion="rms"))
        found = [(*errors(plan), name) for name, plan in classics(path, nfe)]
        worst, typical = min(found), min(found, key=lambda entry: entry[1])
        rows.append((nfe, f"{limit(spectrum, nfe, path):.2e}", f"{free[0]:.2e}", f"{safe[0]:.2e}", f"{worst[0]:.2e}",
                     worst[2], f"{rms[1]:.2e}", f"{rms_safe[1]:.2e}", f"{typical[1]:.2e}", typical[2],
                     f"{typical[1] / rms[1]:.0f}"))  # fmt: skip
    print(f"Gaussian, 200·k^-1.52, d = {len(variances)}, σ_max 80: worst relative error, and rms error / data\n")
    heads = ("NFE", "limit", "max", "mean-safe", "classic", "", "rms", "mean-safe", "classic", "", "classic/rms")
    print(table(heads, rows))


def digits(bandwidth: float, count: int, quick: bool) -> None:
    path = LinearNoiseScheduler()
    model, pipeline = DigitsModel(path, bandwidth=bandwidth), DiffusionPipeline(path)
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    fine = DiffusionPipeline(path.spaced("log_snr"), "dpmpp_3m")
    exact = fine.sample(model, initial_noise=noise, num_inference_steps=150, dtype=torch.float64)
    finer = fine.sample(model, initial_noise=noise[:16], num_inference_steps=300, dtype=torch.float64)
    spectrum = Spectrum.of(load_digits()[0])
    smoothed = Spectrum(spectrum.eigenvalues + bandwidth**2, spectrum.counts)

    def errors(plan: SamplingPlan, share: int = count) -> tuple[float, float]:
        result: Tensor = pipeline.sample(model, initial_noise=noise[:share], plan=plan, dtype=torch.float64)
        squares = (result - exact[:share]).square().flatten(1).mean(1)
        return float(squares.mean().sqrt()), float(squares.sqrt().median())

    rows = []
    for nfe in (5,) if quick else NFE:
        designed = errors(design_plan(smoothed, nfe, path))
        trial = sorted((errors(plan, 24)[0], name, plan) for name, plan in classics(path, nfe))
        found = [(*errors(plan), name) for _, name, plan in trial[:25]]
        best, typical = min(found), min(found, key=lambda entry: entry[1])
        rows.append((nfe, f"{designed[0]:.3f}", f"{best[0]:.3f}", best[2], f"{designed[0] / best[0]:.2f}",
                     f"{designed[1]:.3f}", f"{typical[1]:.3f}", f"{designed[1] / typical[1]:.2f}"))  # fmt: skip
    own = float((finer - exact[:16]).square().mean().sqrt())
    print(f"\nDigits, bandwidth {bandwidth}, {count} samples, error per pixel (of the exact solution: {own:.0e})\n")
    print(table(("NFE", "designed", "classic", "", "ratio", "median", "classic", "ratio"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five calls and fewer samples only")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    gaussian(quick)
    for bandwidth in (0.15, 0.25):
        digits(bandwidth, 128 if quick else 512, quick)


if __name__ == "__main__":
    main()
