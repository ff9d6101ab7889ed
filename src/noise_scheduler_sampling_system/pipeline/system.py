"""Several pipelines by name, in and out of configuration files."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from ..config.choices import SamplingMethod
from ..config.registries import SAMPLERS
from ..config.settings import NoiseSchedulerConfig
from ..running.noise import resolve_keys
from ..samplers.base import BaseSampler
from ..support.data_files import write_table
from ..support.errors import ConfigurationError, shown
from ..support.hooks import Hook
from ..support.registry import did_you_mean
from ..support.values import ByValue
from .config_file import check_name, read_pipelines
from .pipeline import DiffusionPipeline

__all__ = ["COMPARE", "AdvancedDiffusionSystem"]

logger = logging.getLogger(__name__)
#: Makes changes of a system atomic. A lock of the module, since a system with a lock could not be copied or pickled.
_CHANGING = threading.Lock()

#: Compares pipelines at equal model calls; the package ``comparison`` provides it.
COMPARE: Hook[Callable[..., Any]] = Hook("AdvancedDiffusionSystem.compare")


class AdvancedDiffusionSystem(ByValue):
    """Named pipelines, compared and configured together.

    A configuration file (YAML or JSON) maps each pipeline's name to its settings: the fields
    of :class:`NoiseSchedulerConfig`, and optionally ``method`` and ``sampler_options``.
    Without ``method`` the sampler is the one that the name ends in ("cosine_ddim"), else
    DDIM.

    A system is thread-safe: a change replaces its table of pipelines, so that an iteration over the table sees
    the state of one moment.

    Args:
        config_path: a file to load.

    Raises:
        FileError: the file is missing or malformed.
        ConfigurationError: a setting in it is wrong; the error names pipeline and field.

    Examples:
        >>> from noise_scheduler_sampling_system import AdvancedDiffusionSystem
        >>> system = AdvancedDiffusionSystem()
        >>> pipeline = system.create_pipeline("cosine_ddim", {"beta_schedule": "cosine"})
        >>> system.list_pipelines()
        ['cosine_ddim']
    """

    def __init__(self, config_path: str | os.PathLike[str] | None = None) -> None:
        self._pipelines: Mapping[str, DiffusionPipeline] = {}
        if config_path is not None:
            self.load_config(config_path)

    def create_pipeline(
        self,
        name: str,
        config: NoiseSchedulerConfig | Mapping[str, Any] | None = None,
        method: SamplingMethod | str | type[BaseSampler] | BaseSampler = SamplingMethod.DDIM,
        **sampler_options: Any,
    ) -> DiffusionPipeline:
        """Make a pipeline and keep it under a name. It replaces an older pipeline of that name.

        Args:
            name: any text of 1 to 200 characters.
            config: its settings.
            method: a member, its value, a registered name, a sampler class or a sampler object.
            sampler_options: the sampler's own options.
        """
        check_name(name, "name")
        if isinstance(config, Mapping):
            config = NoiseSchedulerConfig.from_dict(config, where=name)
        pipeline = DiffusionPipeline(config, method, **sampler_options)
        if name in self._pipelines:
            logger.info("pipeline %r is replaced", name)
        self._keep({name: pipeline})
        return pipeline

    def get_pipeline(self, name: str) -> DiffusionPipeline:
        """The pipeline of a name.

        Raises:
            ConfigurationError: the name is not known; the message lists the nearest names.
        """
        return _found(self._pipelines, name)

    def list_pipelines(self) -> list[str]:
        """The names, in the order of their creation."""
        return list(self._pipelines)

    def remove_pipeline(self, name: str) -> DiffusionPipeline:
        """Remove a pipeline and return it."""
        with _CHANGING:
            pipeline = _found(self._pipelines, name)
            self._pipelines = {other: kept for other, kept in self._pipelines.items() if other != name}
        return pipeline

    def update_pipeline(self, name: str, **changes: Any) -> DiffusionPipeline:
        """Change settings of a pipeline, validated together: all of them, or none and an error is raised."""
        pipeline = self.get_pipeline(name)
        pipeline.update_config(**changes)
        return pipeline

    def compare_schedulers(
        self, shape: tuple[int, ...], num_inference_steps: int = 50, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Samples of every pipeline, from the same initial noise with the same noise keys.

        Args:
            shape: (B, ...), as for :meth:`DiffusionPipeline.sample`.
            num_inference_steps: N.
            kwargs: other arguments of ``sample``; the default of ``model`` is the embedded digits.

        Returns:
            The samples by the pipeline's name.

        Raises:
            ConfigurationError: no pipelines, or one that cannot run so; raised before any pipeline runs.
        """
        pipelines = self._pipelines  # other threads may replace the table
        if not pipelines:
            raise ConfigurationError(
                "the system has no pipelines", where="compare_schedulers", suggestion="create_pipeline(...) first"
            )
        for name, pipeline in pipelines.items():
            if pipeline.sampler.writes_plans and kwargs.get("plan") is None:
                try:
                    pipeline.plan(num_inference_steps, timesteps=kwargs.get("timesteps"))
                except ConfigurationError as error:
                    raise error.under(name) from None
        generator = kwargs.pop("generator", None)
        if generator is not None or kwargs.get("seed") is None:
            kwargs["seed"] = _drawn(kwargs.get("seed"), generator)
        return {
            name: pipeline.sample(shape=shape, num_inference_steps=num_inference_steps, **kwargs)
            for name, pipeline in pipelines.items()
        }

    def compare(self, model: Any = None, *, names: str | Iterable[str] | None = None, **settings: Any) -> Any:
        """The pipelines at equal numbers of model calls, from the same noise; see :func:`.comparison.compare`.

        Args:
            model: as for ``compare``; None: the embedded digits.
            names: of the pipelines; default: all.
            settings: further arguments of ``compare``: ``nfe``, ``shape``, ``condition``, ``reference``, ...

        Returns:
            A :class:`.comparison.Comparison`: print it, or ``save`` it as a page, JSON or CSV.

        Raises:
            ConfigurationError: no pipelines, an unknown name, or what ``compare`` refuses.
        """
        pipelines = self._pipelines  # other threads may replace the table
        chosen = pipelines if names is None else [names] if isinstance(names, str) else list(names)
        if not chosen:
            raise ConfigurationError(
                "there are no pipelines to compare", where="compare", suggestion="create_pipeline(...) first"
            )
        return COMPARE.function({name: _found(pipelines, name) for name in chosen}, model, **settings)

    def load_config(self, path: str | os.PathLike[str]) -> None:
        """Make the pipelines of a file: all of them, or none and an error is raised.

        Raises:
            FileError: the file is missing or malformed.
            ConfigurationError: settings in it are wrong; the error names all of them, each with its path.
        """
        self._keep(read_pipelines(path))

    def save_config(self, path: str | os.PathLike[str]) -> None:
        """Write every pipeline's settings, as YAML or JSON by the ending, whole or not at all.

        Raises:
            ConfigurationError: a sampler that is not registered, and therefore has no name.
        """
        table: dict[str, Any] = {}
        for name, pipeline in self._pipelines.items():
            method = SAMPLERS.name_of(type(pipeline.sampler))
            if method is None:
                raise ConfigurationError(
                    f"its sampler {pipeline.method} has no name to save",
                    where=name,
                    suggestion=f"SamplerFactory.register('my_sampler', {pipeline.method}) and create it by that name",
                )
            options = pipeline.sampler_options
            table[name] = {**pipeline.config.to_dict(), "method": method}
            if options:
                table[name]["sampler_options"] = options
        write_table(path, table)

    def _keep(self, pipelines: Mapping[str, DiffusionPipeline]) -> None:
        with _CHANGING:
            self._pipelines = {**self._pipelines, **pipelines}

    def __repr__(self) -> str:
        return f"AdvancedDiffusionSystem({self.list_pipelines()})"


def _found(pipelines: Mapping[str, DiffusionPipeline], name: Any) -> DiffusionPipeline:
    """The pipeline of a name.

    Raises:
        ConfigurationError: the name is not known.
    """
    pipeline = pipelines.get(name) if isinstance(name, str) else None
    if pipeline is None:
        raise ConfigurationError(
            f"no pipeline has the name {shown(name)}",
            where="name",
            suggestion=did_you_mean(name if isinstance(name, str) else shown(name), pipelines),
        )
    return pipeline


def _drawn(seed: Any, generator: Any) -> int | list[int]:
    """A seed drawn from a generator, or from each of a list: one draw for all pipelines."""
    if isinstance(generator, list | tuple):
        return [key[0] for key in resolve_keys(seed, generator, len(generator))]
    return resolve_keys(seed, generator, 1)[0][0]
