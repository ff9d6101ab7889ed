"""Bias and variance of training losses and of what they fit, by density and weighting, where everything is known.

    python benchmarks/training_estimators.py

Prints two tables and writes them into docs/training.md, with a figure of recipes. The data are N(0, s²), s = 0.5, on
the straight path, where the perfect network is known in closed form and is the minimiser of every one of these losses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import table
from torch import Tensor

from noise_scheduler_sampling_system.models import GaussianModel
from noise_scheduler_sampling_system.plots import plot_training
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, VDiffusionPath
from noise_scheduler_sampling_system.training import LogNormal, TrainingObjective

OUT = Path(__file__).parents[1] / "docs" / "training.md"
WIDTH, ENTRIES, BATCH, BATCHES, FITS, FIT_SIZE = 0.5, 64, 64, 500, 1000, 4096
PATH = FlowPath(sigma_min=1e-3, time_scale=1.0)
DENSITIES: dict[str, Any] = {
    "uniform": "uniform",
    "logit-normal (0, 1)": "logit_normal",
    "lognormal (−1.2, 1.2)": {"name": "lognormal", "mean": -1.2, "std": 1.2},
    "mode (1.29)": "mode",
    "CosMap": "cosmap",
    "even in log SNR, ±12": {"name": "log_uniform", "log_snr_min": -12.0, "log_snr_max": 12.0},
}
WEIGHTINGS: dict[str, Any] = {
    "ε (`snr`)": "snr", "x₀ (`sample`)": "sample", "v (`snr_plus_one`)": "snr_plus_one", "flow (`flow`)": "flow",
    "min-SNR, γ = 5": "min_snr", "debiased": "debiased", "P2 (1, 1)": "p2", "EDM": "edm", "sigmoid, b = 0": "sigmoid",
}  # fmt: skip
_AXIS = torch.linspace(-16.0, 16.0, 40_001, dtype=torch.float64)  # log(σ/α)


def expected(objective: TrainingObjective, values: Tensor) -> float:
    """The expectation of a function of the level over the density of the draws, by quadrature."""
    levels = objective.levels
    low, high = levels.axis.ends
    inside = (_AXIS - low) * (_AXIS - high) < 0.0
    density = levels.density.log_density(_AXIS, levels.axis).exp()
    return float(torch.trapezoid(torch.where(inside, density * values, 0.0), _AXIS))


@dataclass(frozen=True)
class Exact:
    """What is known at every level: SNR, Var[x₀ | x], and the slope of the denoiser in the logarithm of its width."""

    snr: Tensor

    @property
    def left(self) -> Tensor:
        """Var[x₀ | x], the expected squared error of the perfect network."""
        return WIDTH**2 / (1.0 + WIDTH**2 * self.snr)

    @property
    def slope(self) -> Tensor:
        """E[(∂x̂₀/∂log s)²]."""
        share = self.snr * WIDTH**2 / (1.0 + self.snr * WIDTH**2)
        return (2.0 * share * (1.0 - share)) ** 2 * (WIDTH**2 + 1.0 / self.snr)


def clean_weight(objective: TrainingObjective, t: Tensor) -> Tensor:
    """The weight of the squared error of x̂₀ at times."""
    alpha, sigma = PATH.alpha_and_sigma(t)
    return objective.weight(t) * ((alpha + sigma) / sigma) ** 2  # of ε − x₀ for an error of 1 in x̂₀


def losses_by_draws() -> list[list[str]]:
    """One loss, uniform over σ and plain in the flow, estimated with draws of each density."""
    rows = []
    model = GaussianModel(PATH, 0.0, WIDTH**2)
    exact = TrainingObjective(PATH)
    truth = expected(exact, Exact((-2.0 * _AXIS).exp()).left * clean_weight(exact, PATH.time(-2.0 * _AXIS)))
    # without draws, importance learns from 300 batches
    learned = TrainingObjective(PATH, density={"name": "importance", "bins": 20})
    data = WIDTH * torch.randn(
        BATCH * BATCHES, ENTRIES, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for step in range(300):
        batch = learned.prepare(data[step * BATCH :][:BATCH], seed=1, step=step)
        learned = learned.observed(batch, model(batch.noisy, batch.t))
    for name, density in {**DENSITIES, "importance": learned.density}.items():
        cells = [name]
        for stratified in (False, True):
            over = None if name in ("uniform", "importance") else "uniform"
            objective = TrainingObjective(PATH, density=density, over=over, stratified=stratified)
            means = torch.stack([_mean_loss(objective, model, data, step) for step in range(BATCHES)])
            if not stratified:
                error = float(means.std()) / BATCHES**0.5
                cells.append(f"{(float(means.mean()) - truth) / truth:+.2%} ± {error / truth:.2%}")
            cells.append(f"{float(means.std()) / truth:.1%}")
        rows.append(cells)
        print(cells, flush=True)
    return rows


def _mean_loss(objective: TrainingObjective, model: GaussianModel, data: Tensor, step: int) -> Tensor:
    batch = objective.prepare(data[step * BATCH :][:BATCH], seed=0, step=step)
    return batch.loss(model(batch.noisy, batch.t))


def fitted_widths() -> list[list[str]]:
    """Each pair is a loss of its own with the same minimiser: the spread of a width that is fitted with it."""
    rows = []
    exact = Exact((-2.0 * _AXIS).exp())
    for title, weighting in WEIGHTINGS.items():
        cells = [title]
        for density in DENSITIES.values():
            objective = TrainingObjective(PATH, density=density, weighting=weighting)
            weight = clean_weight(objective, PATH.time(-2.0 * _AXIS))
            curvature = expected(objective, weight * exact.slope)
            cells.append(f"{expected(objective, weight**2 * exact.slope * exact.left) ** 0.5 / curvature:.2f}")
        rows.append(cells)
    return rows


def simulated(density: Any, weighting: Any) -> tuple[float, float, float]:
    """Fit the width FITS times: the mean of log(ŝ/s), its standard error, and √n times its standard deviation."""
    objective = TrainingObjective(PATH, density=density, weighting=weighting, stratified=False)
    generator = torch.Generator().manual_seed(2)
    x0 = WIDTH * torch.randn(FITS, FIT_SIZE, generator=generator, dtype=torch.float64)
    noise = torch.randn(FITS, FIT_SIZE, generator=generator, dtype=torch.float64)
    t = objective.levels.times(torch.rand(FITS, FIT_SIZE, generator=generator, dtype=torch.float64))
    alpha, sigma = PATH.alpha_and_sigma(t)
    weight, snr = clean_weight(objective, t), (alpha / sigma) ** 2
    scaled = x0 + noise * sigma / alpha
    log_width = torch.full((FITS, 1), torch.log(torch.tensor(WIDTH)), dtype=torch.float64)
    for _ in range(30):  # Gauss-Newton
        part = snr * (2.0 * log_width).exp()
        share = part / (1.0 + part)
        slope = 2.0 * share * (1.0 - share) * scaled
        move = (weight * slope * (x0 - share * scaled)).sum(1) / (weight * slope**2).sum(1)
        log_width = log_width + move.clamp(-0.5, 0.5)[:, None]
    off = log_width[:, 0] - torch.log(torch.tensor(WIDTH, dtype=torch.float64))
    return float(off.mean()), float(off.std()) / FITS**0.5, float(off.std()) * FIT_SIZE**0.5


def section() -> str:
    """The section of docs/training.md."""
    draws = table(["draws", "bias", f"spread of a batch of {BATCH}", "the same, stratified"], losses_by_draws())
    fits = table(["weighting", *DENSITIES], fitted_widths())
    checks = []
    for density, weighting in (("uniform", "ε (`snr`)"), ("logit-normal (0, 1)", "flow (`flow`)"),
                               ("lognormal (−1.2, 1.2)", "EDM"), ("CosMap", "min-SNR, γ = 5")):  # fmt: skip
        mean, error, spread = simulated(DENSITIES[density], WEIGHTINGS[weighting])
        checks.append([density, weighting, f"{mean:+.4f} ± {error:.4f}", f"{spread:.2f}"])
    simulations = table(["draws", "weighting", "mean of log(ŝ/s)", "√n times its spread"], checks)
    return f"""## Bias and variance, measured

Made by `python benchmarks/training_estimators.py`: Gaussian data of standard deviation {WIDTH} on the straight path,
where the perfect network is known.

**One loss, several draws.** The loss is plain and uniform over σ, of samples with {ENTRIES} entries; `over="uniform"`
keeps it so. The bias is the mean over {BATCHES} batches against the exact value (by quadrature), with its standard
error. The spread is the standard deviation of the loss of one batch over the loss.

{draws}

Strata cost nothing and remove most of the variance that the levels cause. Draws whose density falls faster than the one
that the loss is over (normal against logistic tails in log σ/α) are poor importance samples: the levels that they
hardly ever draw have huge weights, the ratio has no finite variance, and the mean over any practical number of draws is
too small. Draw with these densities where the loss is over them (the default). `importance` follows the loss and has
the smallest spread of the independent draws.

**Each pair is a loss of its own with the same minimiser.** The table has √n times the standard deviation of log ŝ,
where ŝ is the width that fits n numbers best: how far a draw informs a network that shares its weights between levels.
It is exact (quadrature of the sandwich formula). Smaller is better.

{fits}

The same by simulation, {FITS:,} fits of {FIT_SIZE:,} draws each. No mean is more than two standard errors from 0:

{simulations}
"""


def draw_recipes() -> None:
    """Write the figure of published recipes."""
    cosine, flow = VDiffusionPath(), FlowPath()
    recipes = {
        "flow, uniform σ": TrainingObjective(flow),
        "SD3: logit-normal (0, 1)": TrainingObjective(flow, density="logit_normal"),
        "SD3 with shift 3": TrainingObjective(flow, density=LogNormal(shift=3.0)),
        "flow, mode (1.29)": TrainingObjective(flow, density="mode"),
        "EDM": TrainingObjective(EDMPath(), density=LogNormal(-1.2, 1.2), weighting="edm"),
        "cosine, v": TrainingObjective(cosine),
        "cosine, min-SNR": TrainingObjective(cosine, weighting="min_snr"),
    }
    plot_training(recipes).savefig(OUT.parent / "images" / "training.png")


def main() -> None:
    """Write the section and the figure."""
    draw_recipes()
    made = section()
    print(made)
    text = OUT.read_text()
    pattern = re.compile(r"## Bias and variance, measured\n.*?(?=\n## |\Z)", re.S)
    OUT.write_text(pattern.sub(lambda _: made.rstrip() + "\n", text))


if __name__ == "__main__":
    main()
