"""From a request to a job: the prepared run of its arguments, and what its tensors, its seed and its model add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..models.experts import Experts
from ..plans.plan import SamplingPlan
from ..running.brownian import brownian
from ..running.device_noise import source_of
from ..running.model_adapter import ModelAdapter
from ..running.noise import resolve_keys
from ..running.output_check import Look
from ..running.placement import resolve_device
from ..running.stated_prediction import stated_prediction
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from .batch_conditions import BatchConditions
from .compiled import Setup
from .first_state import GivenStart
from .frames_of_request import with_context_of
from .guidance_of_request import run_guidance
from .job import Job
from .network_calls import NetworkCalls
from .prepared_run import Facts, prepared_run
from .request import Request

__all__ = ["embedded_model", "prepare"]


def prepare(setup: Setup, request: Request, *, own_model: bool = False) -> Job:
    """Resolve a request, with every check that needs more than one argument.

    Args:
        setup: the noise schedule and the sampler.
        request: the arguments.
        own_model: whether the model belongs to a pipeline of diffusers; its config was then read off the scheduler
            in use, and a scheduler that lies beside the model's file says nothing.

    Raises:
        ConfigurationError: arguments that do not go together, or not with the setup.
        DeviceError, OutOfMemoryError: the device cannot run it.
    """
    path = setup.scheduler
    given = GivenStart.of(request)
    shape = given.batch_shape(request.shape)
    network = request.model
    if network is None:
        network = setup.prepared.get("embedded", lambda: embedded_model(path))
    model = ModelAdapter(network)
    device = resolve_device(request.device, model.device, given.tensor)
    if isinstance(model.model, Experts):
        model.model.refuse_path(path)
    conditions = BatchConditions(model, shape[0], device)
    condition = conditions.fitted(request.condition, "condition")
    stated = stated_prediction(model.model, beside=not own_model)
    prepared = prepared_run(setup, request, Facts(shape, device, model.dtype, stated, bool(condition)))

    run, dtype = prepared.run, prepared.dtype
    if run.plan.two_times:
        model = replace(model, two_times=True)
        conditions = conditions._replace(adapter=model)
    given = given.placed(device, dtype)
    if prepared.frames or request.context is not None:
        given = with_context_of(given, request, run.plan, shape, dtype, device)
    keys = resolve_keys(request.seed, request.generator, shape[0], request.first_index)
    noise = source_of(request.noise_device, keys, shape[1:], dtype, device)
    if prepared.brownian:
        assert isinstance(run.plan, SamplingPlan)
        noise = brownian(run.plan, noise)
    return Job(
        setup=setup,
        run=run,
        guidance=run_guidance(prepared.guidance, run, conditions, condition, request.null_condition),
        calls=NetworkCalls(
            model,
            dtype,
            device,
            prepared.told,
            look=Look(model.model, path.config.prediction_type, path.sigma_is_absolute) if prepared.looks else None,
        ),
        noise=noise,
        given=given,
    )


def embedded_model(path: NoisePath) -> Callable[..., Any]:
    """The exact model of handwritten digits.

    Raises:
        ConfigurationError: the config wants a model with a learned variance.
    """
    from ..models import DigitsModel

    if path.config.variance_type.startswith("learned"):
        raise ConfigurationError(
            "no model is given, and the embedded one has no learned variance",
            where="variance_type",
            suggestion="give a model, or config.replace(variance_type='fixed_small')",
        )
    return DigitsModel(path)
