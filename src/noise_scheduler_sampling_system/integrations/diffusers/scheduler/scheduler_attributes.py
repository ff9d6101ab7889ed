"""The attributes of a scheduler that code of diffusers reads: tables of the class, and parts of its own run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from ....config.prediction import Preconditioning
from ....support.errors import ConfigurationError
from .plan_compiler import PlanCompiler
from .run_registry import RunRegistry

__all__ = ["LACKING", "TRAINING_TABLES", "MissingPartError", "SchedulerAttributes"]

#: Tables of training and of the whole range; they are those of the replaced class.
TRAINING_TABLES = frozenset({
    "alpha_t", "alphas", "alphas_cumprod", "betas", "final_alpha_cumprod", "lambda_t", "log_sigmas", "one", "sigma_t",
})  # fmt: skip

_HISTORY = "it is a part of that class's own run; here a run keeps what it reads again beside its state"
_FORMULA = "it is a formula of that class; here a step is a row of a table of numbers"
_OTHER = "it belongs to a scheduler whose states are not Gaussian, or that no sampler here stands for"
#: Attributes that code of diffusers reads and that do not exist here → why.
LACKING: Mapping[str, str] = {
    **dict.fromkeys(
        ("model_outputs", "timestep_list", "lower_order_nums", "last_sample", "ets", "cur_model_output", "cur_sample",
         "counter", "derivatives", "prev_derivative", "dt", "sample", "noise_sampler", "order_list"),
        _HISTORY,
    ),
    **dict.fromkeys(
        ("_get_variance", "_sigma_to_alpha_sigma_t", "_init_step_index", "convert_model_output",
         "dpm_solver_first_order_update", "step_plms", "step_prk", "prk_timesteps", "plms_timesteps",
         "batch_step_no_noise", "_is_ode_scheduler", "undo_step", "sigmas_interpol"),
        _FORMULA,
    ),
    **dict.fromkeys(
        ("add_noise_to_input", "step_correct", "step_pred", "schedule", "set_sigmas", "ori_start_sigmas", "eta",
         "check_block_should_continue", "check_eos_finished"),
        _OTHER,
    ),
}  # fmt: skip


@final
class MissingPartError(ConfigurationError, AttributeError):
    """A :class:`PlanScheduler` lacks a part of other schedulers; an ``AttributeError``, for ``hasattr``."""


class SchedulerAttributes:
    """The part of :class:`PlanScheduler` that is read, beside the methods of a run."""

    config: Any
    _compiler: PlanCompiler
    _lists: RunRegistry
    _shift: float | None = None

    @property
    def timesteps(self) -> Tensor:
        """The time of every model call, of this thread's last ``set_timesteps``; before it, every training time."""
        current = self._lists.current
        if current is not None:
            return current.timesteps
        theirs = getattr(self._compiler.reference, "timesteps", None)
        if isinstance(theirs, Tensor):
            return theirs
        path = self._compiler.path
        if path.discrete:
            return torch.arange(len(self) - 1, -1, -1)
        return torch.linspace(path.t_max, path.t_min, len(self))

    @property
    def sigma_min(self) -> float:
        """The lowest σ of the path, in the units of :attr:`sigmas`."""
        return self._end_of_path("sigma_min", -1)

    @property
    def sigma_max(self) -> float:
        """The highest σ of the path, in the units of :attr:`sigmas`."""
        return self._end_of_path("sigma_max", 0)

    def _end_of_path(self, name: str, end: int) -> float:
        theirs = getattr(self._compiler.reference, name, None)
        if theirs is not None:
            return float(theirs)
        path = self._compiler.path
        level = path.level(path.t_min if end else path.t_max)
        return level.sigma / level.alpha if level.alpha else math.inf

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The place of a time in ``timesteps`` or in a given list; of several places the second, as in diffusers.

        Raises:
            ConfigurationError: the time is not in the list.
        """
        times = self.timesteps if schedule_timesteps is None else schedule_timesteps
        places = (times.cpu() == torch.as_tensor(timestep).cpu()).nonzero().reshape(-1).tolist()
        if not places:
            raise ConfigurationError(
                f"t = {float(timestep):g} is none of the times",
                where="timestep",
                suggestion="give an entry of scheduler.timesteps",
            )
        return int(places[min(1, len(places) - 1)])

    def previous_timestep(self, timestep: Any) -> Any:
        """The entry of ``timesteps`` after this one; −1 after the last; t − 1 before ``set_timesteps``."""
        if self._lists.current is None:
            return timestep - 1
        times = self.timesteps
        after = self.index_for_timestep(timestep) + 1
        return times[after] if after < len(times) else torch.tensor(-1)

    @property
    def shift(self) -> float:
        """The shift of the path, for flow schedulers."""
        if self._shift is not None:
            return self._shift
        return float(self._compiler.reference.shift)

    def set_shift(self, shift: float) -> None:
        """Set the shift of the next ``set_timesteps``, for flow schedulers.

        Raises:
            ConfigurationError: the replaced class does not have a shift, or the number is not positive.
        """
        if not hasattr(self._compiler.reference, "set_shift"):
            raise ConfigurationError(
                f"{self._compiler.class_name} has none", where="shift", suggestion="it is for flow schedulers"
            )
        if not 0.0 < float(shift) < math.inf:
            raise ConfigurationError(f"got {shift!r}", where="shift", suggestion="give a positive number")
        self._shift = float(shift)

    # EDM

    def precondition_inputs(self, sample: Tensor, sigma: float | Tensor) -> Tensor:
        """c_in(σ)·x, for EDM networks."""
        scaled: Tensor = sample * self._preconditioning().c_in(float(sigma))
        return scaled

    def precondition_outputs(self, sample: Tensor, model_output: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean sample that an EDM network's output stands for."""
        of, at = self._preconditioning(), float(sigma)
        clean: Tensor = of.c_skip(at) * sample + of.c_out(at) * model_output
        return clean

    def _get_conditioning_c_in(self, sigma: float | Tensor) -> float:
        """c_in(σ), which Cosmos' pipelines read."""
        return self._preconditioning().c_in(float(sigma))

    def precondition_noise(self, sigma: float | Tensor) -> Tensor:
        """What EDM networks are told: ¼·ln σ, or (2/π)·arctan σ."""
        self._preconditioning()
        ratio = torch.as_tensor(sigma)
        return 0.25 * ratio.log() if self._compiler.reading.terms.clock == "log" else ratio.atan() / math.pi * 2

    def _preconditioning(self) -> Preconditioning:
        reading = self._compiler.reading
        if reading.terms.preconditioning is None:
            raise ConfigurationError(
                f"{reading.class_name} has no preconditioning",
                where="scheduler",
                suggestion="it is for networks of EDM: EDMEulerScheduler and its like",
            )
        return reading.terms.preconditioning

    # other attributes

    def __getattr__(self, name: str) -> Any:
        if name in TRAINING_TABLES and "_compiler" in self.__dict__:
            return getattr(self._compiler.reference, name)
        if name in LACKING:
            raise MissingPartError(
                f"there is no {name}",
                where="PlanScheduler",
                why=LACKING[name],
                suggestion="keep the pipeline's own scheduler where its code needs that",
            )
        return super().__getattr__(name)  # type: ignore[misc]

    @property
    def compatibles(self) -> list[type[Any]]:
        """The classes of diffusers that can be made of the config, as the replaced class lists them."""
        found: list[type[Any]] = self._compiler.reference.compatibles
        return found

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps", 1000))
