"""Options: what is declared is what is allowed, of every sampler, noise schedule and spacing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    DiffusionPipeline,
    NoisePath,
    NoiseSchedulerConfig,
    Option,
    SamplerFactory,
    make_grid,
)
from noise_scheduler_sampling_system.config.options import parameters_of
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SCHEDULES, SPACINGS

SAMPLER_OPTIONS = [(name, option) for name in SAMPLERS for option in SAMPLERS.get(name).declared_options]
SCHEDULE_OPTIONS = [(name, option) for name in SCHEDULES for option in SCHEDULES.get(name).declared_options]
SPACING_OPTIONS = [(name, option) for name in SPACINGS for option in parameters_of(SPACINGS.get(name), 2)]
NEVER = [10**400, math.nan, math.inf, -math.inf, 1e308, -1e308, 1j, b"1", [1.0], {"a": object()}, torch.ones(2)]


def outside(option: Option) -> list:
    """Values that the declaration does not allow."""
    beyond = [b + s for b, s in ((option.minimum, -1), (option.maximum, 1)) if b is not None]
    bounds = [b for b in (option.above, option.below) if b is not None]
    numeric = option.type in (int, float)
    wrong = [v for v in NEVER if not (numeric and isinstance(v, float) and option._inside(v))]
    return [*wrong, *beyond, *bounds, *(["1", True, None][: 3 if option.default is not None else 2] if numeric else [])]


@pytest.mark.parametrize(("name", "option"), SAMPLER_OPTIONS)
def test_every_option_of_a_sampler_is_checked(name, option):
    declared = SAMPLERS.get(name).declared_options[option]
    for value in outside(declared):
        with pytest.raises(ConfigurationError) as raised:
            SamplerFactory.create(name, **{option: value})
        assert raised.value.where == option
        assert len(str(raised.value)) < 700


@pytest.mark.parametrize(("name", "option"), SCHEDULE_OPTIONS)
def test_every_option_of_a_schedule_is_checked(name, option):
    fields = {"trained_betas": [0.1, 0.2]} if name == "custom" else {}
    for value in outside(SCHEDULES.get(name).declared_options[option]):
        with pytest.raises(ConfigurationError) as raised:
            SCHEDULES.get(name)(NoiseSchedulerConfig(beta_schedule=name, schedule_options={option: value}, **fields))
        assert raised.value.where == f"schedule_options.{option}"
        assert len(str(raised.value)) < 700


@pytest.mark.parametrize(("name", "option"), SPACING_OPTIONS)
def test_every_option_of_a_spacing_is_checked(name, option):
    for value in outside(parameters_of(SPACINGS.get(name), 2)[option]):
        config = NoiseSchedulerConfig(timestep_spacing=name, spacing_options={option: value})
        with pytest.raises(ConfigurationError) as raised:
            make_grid(SCHEDULES.get("linear")(config), 10)
        assert raised.value.where == f"spacing_options.{option}"
        assert len(str(raised.value)) < 700


def test_every_option_says_its_range():
    """A number without bounds is one that any size of is meant."""
    declared = [SAMPLERS.get(n).declared_options[o] for n, o in SAMPLER_OPTIONS]
    declared += [SCHEDULES.get(n).declared_options[o] for n, o in SCHEDULE_OPTIONS]
    declared += [parameters_of(SPACINGS.get(n), 2)[o] for n, o in SPACING_OPTIONS]
    for option in declared:
        bounded = any(b is not None for b in (option.minimum, option.maximum, option.above, option.below))
        assert bounded or option.choices or option.type not in (int, float, str), option
        assert option.checked(option.default, "default") == option.default


def test_options_can_be_negative_none_and_functions():
    class Mine(BaseSampler):
        declared_options = {
            "shift": Option(0.0, minimum=-1.0, maximum=1.0),
            "warmup": Option(None, kind=int, minimum=0),
            "weight": Option(None, kind=Callable),
            "rule": Option("exact", choices=("exact", "published")),
        }

        def write(self, build, grid):
            for i, _, after in grid.intervals():
                p = build.predict(grid.levels[i], i)
                build.advance(after.alpha * p.sample + after.sigma * p.epsilon)

    given = {"shift": -0.5, "warmup": np.int64(0), "weight": math.sin, "rule": "published"}
    sampler = SamplerFactory.create(Mine, **given)
    assert dict(sampler.options) == given
    assert type(sampler.options["warmup"]) is int
    assert dict(SamplerFactory.create(Mine).options) == {"shift": 0.0, "warmup": None, "weight": None, "rule": "exact"}
    for name, value in {"shift": -2, "warmup": -1, "weight": 3, "rule": "exat"}.items():
        with pytest.raises(ConfigurationError, match=f"^{name}: got"):
            SamplerFactory.create(Mine, **{name: value})
    with pytest.raises(ConfigurationError, match="did you mean 'exact'"):
        SamplerFactory.create(Mine, rule="exat")


def test_plain_defaults_declare_options_as_before():
    class Old(BaseSampler):
        option_defaults = {"flag": True, "count": 2, "size": 0.5, "word": "a", "free": None}
        choices = {"word": ("a", "b")}

        def step(self, model_output, timestep, sample):
            return sample

    assert dict(SamplerFactory.create(Old, size=3).options) == {**Old.option_defaults, "size": 3}
    assert SamplerFactory.create(Old, free=object, word="b").options["word"] == "b"
    for name, value in {"flag": 1, "count": 0, "size": -1.0, "word": "c"}.items():
        with pytest.raises(ConfigurationError, match=f"^{name}: got"):
            SamplerFactory.create(Old, **{name: value})

    class Older(Old):
        option_defaults = {"count": 5}

    assert Older.declared_options["count"] == Option(5, minimum=1)
    assert dict(Older.option_defaults) == {"count": 5}


@pytest.mark.parametrize("beta_end", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "karras"])
@pytest.mark.parametrize("sampler", ["adams", "flow_heun", "pndm", "lms"])
def test_levels_next_to_pure_noise_are_told_apart(beta_end, spacing, sampler):
    """σ/(α + σ) is 1 in float64 at many levels there, and α is not 0."""
    config = NoiseSchedulerConfig(beta_end=beta_end, timestep_spacing=spacing, prediction_type="v_prediction")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for steps in (2, 5, 10, 50):
            plan = DiffusionPipeline(config, sampler).plan(steps)
            assert np.isfinite(plan.a).all()
            assert np.abs(plan.constant_residual).max() < 1e-9


def test_a_custom_path_keeps_plain_options_to_itself():
    class Mine(NoisePath):
        option_defaults = {"height": 0.1}
        t_min, t_max = 0.01, 1.0

        def _log_snr(self, t):
            return -self.option("height") * 40.0 * t.log()

        def _time(self, log_snr):
            return (-log_snr / 40.0 / self.option("height")).exp().clamp(self.t_min, self.t_max)

        def _alpha_sigma(self, log_snr):
            return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    assert Mine(height=0.2).options["height"] == 0.2
    with pytest.raises(ConfigurationError, match=r"schedule_options\.height: got -1.0\n  try: give a number above 0$"):
        Mine(height=-1.0)


def test_an_option_with_a_range_has_no_other_lower_bound():
    class Moved(NoisePath):
        declared_options = {"by": Option(0.0, minimum=-40.0, maximum=40.0)}
        t_min, t_max = 0.0, 1.0

        def _log_snr(self, t):
            return self.option("by") + 10.0 - 20.0 * t

        def _time(self, log_snr):
            return ((self.option("by") + 10.0 - log_snr) / 20.0).clamp(self.t_min, self.t_max)

        def _alpha_sigma(self, log_snr):
            return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    assert [Moved(by=by).log_snr(0.5) for by in (-3.0, 0.0, -40.0)] == [-3.0, 0.0, -40.0]
    with pytest.raises(ConfigurationError, match="from -40 to 40"):
        Moved(by=-41.0)
    for bounds, said in (({"low": 0.0}, "a number above 0"), ({"low": 1, "high": 2}, "a number above 1 and below 2"),
                         ({"high": -4.0}, "a number below -4")):  # fmt: skip
        with pytest.raises(ConfigurationError, match=rf"schedule_options\.by: got -3.0\n  try: give {said}$"):
            Moved(by=-3.0).option("by", **bounds)
