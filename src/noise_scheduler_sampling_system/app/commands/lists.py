"""The commands ``samplers`` and ``schedules``: what is registered."""

from __future__ import annotations

import typer

from ...support.text_tables import text_table

__all__ = ["samplers", "schedules"]


def samplers() -> None:
    """List the samplers: order, model calls a step, whether they add noise, options."""
    from ...config.registries import SAMPLERS
    from ...samplers.factory import SamplerFactory

    rows: list[tuple[str, ...]] = [("name", "order", "calls/step", "stochastic", "options")]
    for name in sorted(SAMPLERS):
        made = SamplerFactory.create(name)
        options = ", ".join(f"{key}={value}" for key, value in made.option_defaults.items())
        rows.append((name, str(made.order), str(made.calls_per_step), "yes" if made.stochastic else "no", options))
    typer.echo(text_table(rows))


def schedules() -> None:
    """List the noise schedules, with the noise-to-signal ratio σ/α at both ends."""
    from ...config.choices import BetaSchedule
    from ...config.registries import SCHEDULES
    from ...schedules.factory import NoiseSchedulerFactory

    rows: list[tuple[str, ...]] = [("name", "σ/α, cleanest", "σ/α, noisiest")]
    for name in sorted(SCHEDULES):
        if name == BetaSchedule.CUSTOM.value:
            rows.append((name, "(trained_betas)", ""))
            continue
        path = NoiseSchedulerFactory.create(name)
        rows.append((name, *(f"{path.level(t).noise_to_signal:.4g}" for t in (path.t_min, path.t_max))))
    typer.echo(text_table(rows))
