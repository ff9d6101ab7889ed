"""Which grid suits which sampler: the spread of Gaussian data after a run, exact from the plan's table.

    python benchmarks/moments_table.py

Prints a table and writes it into docs/samplers.md. Scaled-linear betas (0.00085 to 0.012), data of standard deviation
0.3: each cell is the result's standard deviation over the data's at 10 and at 50 steps, without random numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

from common import table

from noise_scheduler_sampling_system import (
    ConfigurationError,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    NumericsError,
    SamplerFactory,
)
from noise_scheduler_sampling_system.config.registries import SAMPLERS

OUT = Path(__file__).parents[1] / "docs" / "samplers.md"
CONFIG = NoiseSchedulerConfig(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
SPACINGS = ("leading", "trailing", "linspace", "karras", "log_snr", "kl_optimal", "beta57")
STEPS, WIDTH = (10, 50), 0.3
TITLE = "## Which grid suits which sampler"
INTRO = f"""{TITLE}

Made by `python benchmarks/moments_table.py`. A cell is the standard deviation of the result over that of the data, at
{STEPS[0]} / {STEPS[1]} steps, for Gaussian data of standard deviation {WIDTH}, scaled-linear betas and the
exact model. It is computed exactly from the plan (`plan.gaussian_moments({WIDTH})`). 1 is right. Above 1, noise is left
in; below 1, detail is lost. A guarded step gives up order where it would widen or narrow the data (`guarded=True`, the
default of every sampler with an order above 1). The last column is the largest value of the row without the guard.
`lcm` and `tcd` are for distilled models, whose output differs from that of the exact model; `flow_map` is for networks
of two times, and its row is that of an exact one.

"""


def ratio(name: str, spacing: str, steps: int, **options: bool) -> float | None:
    """Return the standard deviation after a run over that of the data; None if the sampler has no plan there."""
    try:
        sampler = SamplerFactory.create(name, NoiseSchedulerFactory.create(CONFIG).spaced(spacing), **options)
        return float(sampler.plan(steps).gaussian_moments(WIDTH).std / WIDTH)
    except (ConfigurationError, NumericsError):
        return None


def section() -> str:
    """The section of docs/samplers.md."""
    rows = []
    for name in sorted(SAMPLERS):
        if not SamplerFactory.create(name).writes_plans:
            continue
        cells = []
        for spacing in SPACINGS:
            found = [ratio(name, spacing, steps) for steps in STEPS]
            cells.append(" / ".join("–" if value is None else f"{value:.2f}" for value in found))
        worst = ""
        if SAMPLERS.get(name).guards:
            free = [ratio(name, spacing, steps, guarded=False) for spacing in SPACINGS for steps in STEPS]
            worst = f"{max(value for value in free if value is not None):.3g}"
        rows.append([f"`{name}`", *cells, worst])
    return INTRO + table(["sampler", *SPACINGS, "unguarded"], rows) + "\n\n"


def with_intro(page: str) -> str:
    """The page with the words of its section written again."""
    return re.sub(re.escape(TITLE) + r".*?(?=^\| sampler)", lambda _: INTRO, page, flags=re.DOTALL | re.MULTILINE)


def main() -> None:
    text, new = OUT.read_text(), section()
    pattern = re.compile(re.escape(TITLE) + r".*?(?=^## )", re.DOTALL | re.MULTILINE)
    if pattern.search(text):
        text = pattern.sub(lambda _: new, text)
    else:
        text = text.replace("## Error at equal model calls", new + "## Error at equal model calls")
    OUT.write_text(text)
    print(new)


if __name__ == "__main__":
    main()
