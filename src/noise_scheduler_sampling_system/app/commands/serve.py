"""The command ``serve``: samples over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...support.errors import ConfigurationError
from ..options import Device, Model, Prediction, Preset, Schedule, ScheduleOptions, Spacing, SpacingOptions
from ..output import complain
from ..parsing import settings_of

__all__ = ["serve"]


def serve(
    model: Model = "digits",
    sampler: Annotated[str | None, typer.Option(help="The sampler of requests that name none; default ddim.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 chooses a free one.", min=0, max=65535)] = 8000,
    max_batch_size: Annotated[int, typer.Option(help="The most rows of a model call.", min=1)] = 16,
    max_queue: Annotated[int, typer.Option(help="The most requests that wait.", min=1)] = 256,
    max_samples: Annotated[int, typer.Option(help="The most samples of a request.", min=1)] = 64,
    max_steps: Annotated[int, typer.Option(help="The most steps of a request.", min=1)] = 250,
    max_numbers: Annotated[int, typer.Option(help="The most numbers in the samples of a request.", min=1)] = 1 << 24,
    max_body: Annotated[int, typer.Option(help="The most bytes of a request.", min=1)] = 1 << 20,
    timeout: Annotated[float, typer.Option(help="The most seconds of a request.", min=0.001)] = 300.0,
    grace: Annotated[
        float, typer.Option(help="Seconds to finish after SIGTERM; the rest is handed back.", min=0.1, max=1e6)
    ] = 30.0,
    states: Annotated[
        Path | None, typer.Option(help="The folder for what is handed back; without it, the client starts anew.")
    ] = None,
    prediction: Prediction = None,
    device: Device = "auto",
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
) -> None:
    """Serve samples over HTTP: POST /v1/samples, GET /health, /ready and /metrics. Requests share model calls."""
    try:
        from ...serving.http.server import run_server
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed",
            where="serve",
            suggestion="pip install 'noise-scheduler-sampling-system[serve]'",
        ) from None
    from ...integrations.named_models import named_model
    from ...serving.http.guard import is_loopback
    from ...serving.http.limits import Limits
    from ...serving.http.service import Service

    if not is_loopback(host):
        complain(f"{host} can be reached from other machines, and whoever reaches it can run the model")
    if states is not None:
        states.mkdir(parents=True, exist_ok=True)
    limits = Limits(
        batch=max_batch_size, queue=max_queue, samples=max_samples, steps=max_steps, numbers=max_numbers,
        body=max_body, seconds=timeout,
    )  # fmt: skip
    settings = settings_of(schedule, spacing, None, schedule_option, spacing_option, prediction)
    service = Service(
        named_model(model).on(device), limits, method=sampler, preset=preset, settings=settings, states=states
    )  # fmt: skip
    run_server(service, host, port, grace=grace)
