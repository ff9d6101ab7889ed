"""What those meet who extend the library: samplers, paths and guidance of their own."""

from __future__ import annotations

import sys
import typing

import numpy as np
import pytest
import torch

import noise_scheduler_sampling_system as library
from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    DiffusionPipeline,
    EDMPath,
    FlowPath,
    Form,
    Level,
    MultistepSampler,
    NoisePath,
    NoiseSchedulerConfig,
    NumericsError,
    Option,
    PlanBuilder,
    SamplingResult,
    ShiftedSNR,
    TimeGrid,
    VDiffusionPath,
    VPPath,
    ZeroTerminalSNR,
    along,
    from_noise,
    models,
)
from noise_scheduler_sampling_system.config.registries import SCHEDULES
from noise_scheduler_sampling_system.guidance import ClassifierFree, Energy, Guidance, Interval, Rescale
from noise_scheduler_sampling_system.pipeline.keyword_types import RunKeywords
from noise_scheduler_sampling_system.schedules.path_checks import check_path
from noise_scheduler_sampling_system.testing import check_sampler
from public_names import public_names


class Midpoint(BaseSampler):
    """That of CONTRIBUTING.md."""

    order, calls_per_step, space = 2, 2, "epsilon"

    def write(self, build, grid):
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            if after.sigma == 0.0 or from_noise(now, after):
                build.advance(after.alpha * p.sample + after.sigma * p.epsilon)
                continue
            middle = self.scheduler.level((now.t + after.t) / 2)
            build.advance(along(p.x, p.epsilon, now, middle))
            build.advance(along(p.x, build.predict(middle, i).epsilon, now, after))


PATHS = [
    *(lambda name=name: SCHEDULES.get(name)() for name in SCHEDULES if name != "custom"),
    lambda: ShiftedSNR(VPPath(), 3.0),
    lambda: ZeroTerminalSNR(VPPath(prediction_type="v_prediction")),
    lambda: SCHEDULES.get("cosine")(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("spacing", ["trailing", "karras", "linspace"])
def test_the_midpoint_example_runs_on_every_path(path, spacing):
    path = path().spaced(spacing)
    samples = DiffusionPipeline(path, Midpoint).sample(models.DigitsModel(path), (2, 1, 8, 8), 10, seed=0)
    assert samples.abs().max() < 5.0  # digits are in [−1, 1]; ten steps from much noise to little are few


def test_sums_of_forms_and_zero():
    a, b = Form({("x", 0): 1.0}), Form({("y", 0): 2.0})
    for same in (a + 0.0, 0 + a, a - 0, +a, a + np.float64(0.0), a - Form()):
        assert dict(same.terms) == {("x", 0): 1.0}
    assert dict(sum([a, b]).terms) == dict((a + b).terms) == {("x", 0): 1.0, ("y", 0): 2.0}
    assert dict((0 - a).terms) == {("x", 0): -1.0}
    for doubled in (2 * a, a * 2, np.float64(2) * a, a * np.float32(2), a / 0.5, a * torch.tensor(2.0)):
        assert dict(doubled.terms) == {("x", 0): 2.0}


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (lambda f: f * f, "a form is multiplied by a form"),
        (lambda f: f / f, "a form is divided by a form"),
        (lambda f: 1 / f, "1 is divided by a form"),
        (lambda f: f**2, "raised to a power"),
        (lambda f: f + 1, "1 is added to a form"),
        (lambda f: f - 2.0, "2.0 is subtracted from a form"),
        (lambda f: 3 - f, "a form is subtracted from 3"),
        (lambda f: f * "a", "a form is multiplied by 'a'"),
        (lambda f: f * True, "a form is multiplied by True"),
        (lambda f: f * torch.ones(2), "a form is multiplied by Tensor"),
        (lambda f: f / 0, "a form is divided by 0"),
        (lambda f: f + "x", "'x' is added to a form"),
        (lambda f: PlanBuilder("sample").advance(0.0), "advance: got 0.0"),
    ],
)
def test_what_is_not_linear_is_refused_by_name(operation, said):
    with pytest.raises(ConfigurationError, match=said):
        operation(Form({("x", 0): 1.0}))


def test_a_formula_without_a_finite_value_says_so():
    class Naive(BaseSampler):
        def write(self, build, grid):
            for i, now, after in grid.intervals():
                p = build.predict(now, i)
                build.advance(after.alpha / now.alpha * (p.x - now.sigma * p.epsilon) + after.sigma * p.epsilon)

    assert len(DiffusionPipeline(VPPath(), Naive).plan(5)) == 5
    with pytest.raises(NumericsError, match=r"Naive\.write: .*no finite value"):
        DiffusionPipeline(FlowPath(), Naive).plan(5)


@pytest.mark.parametrize("name", ["ddim", "ancestral", "dpmpp_2m", "heun", "ddpm", "edm", "unipc"])
def test_what_built_in_samplers_declare_is_what_they_have(name):
    report = check_sampler(name, [VPPath(), FlowPath()])
    assert report.order is None or report.order > report.declared_order - 0.25
    assert report.draws_noise == report.stochastic
    assert len(str(report).splitlines()) == 3


def test_check_sampler_takes_classes_options_and_step_only_samplers():
    class PlainEuler(BaseSampler):
        def step(self, model_output, timestep, sample, next_timestep=None):
            alpha, sigma = self.scheduler.alpha(timestep), self.scheduler.sigma(timestep)
            clean = (sample - sigma * model_output) / alpha
            if next_timestep is None:
                return clean
            return self.scheduler.alpha(next_timestep) * clean + self.scheduler.sigma(next_timestep) * model_output

    assert check_sampler(PlainEuler, [VPPath(), EDMPath(prediction_type="epsilon")]).order == pytest.approx(
        1.0, abs=0.2
    )
    assert check_sampler(Midpoint).order == pytest.approx(2.0, abs=0.3)
    assert check_sampler("dpmpp_3m", [VPPath()], start="plain").declared_order == 2
    with pytest.raises(ConfigurationError, match="tolerance, not an order"):
        check_sampler("adaptive")


def variant(**changes):
    return type("Variant", (Midpoint,), changes)


def drifting(self, build, grid):
    for i, now, after in grid.intervals():
        p = build.predict(now, i)
        build.advance(1.01 * after.alpha * p.sample + after.sigma * p.epsilon)


def failing(self, model_output, timestep, sample, next_timestep=None):
    return [sample][int(timestep * 1000) % 7]


class Remembering(BaseSampler):
    def step(self, model_output, timestep, sample, epsilon=None, pred_original_sample=None, next_timestep=None):
        self.calls = getattr(self, "calls", 0) + 1
        return pred_original_sample * (1.0 + 1e-4 * self.calls)


class Batched(BaseSampler):
    def step(self, model_output, timestep, sample, pred_original_sample=None):
        return pred_original_sample - 1e-3 * pred_original_sample.mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (variant(order=4), r"order: declares order = 4, and [12]\.\d+ was measured on VPPath"),
        (variant(calls_per_step=1), "declares calls_per_step = 1, and 79 calls were counted in 40 steps"),
        (variant(stochastic=True), "declares stochastic = True, and two seeds give the same results"),
        (variant(order=0), "whole number"),
        (variant(space="noise"), "declares space = 'noise'"),
        (variant(reads=frozenset({"variance"})), "the config has no variance"),
        (variant(declared_options={"a": Option(3.0, maximum=2.0)}), "got 3.0"),
        (type("Drifting", (BaseSampler,), {"write": drifting}), "does not reproduce constant data"),
        (type("Failing", (BaseSampler,), {"step": failing}), "raises IndexError on VPPath"),
        (Remembering, "gives another result|error of"),
        (Batched, "a run of each sample alone gives another result|error of"),
    ],
    ids=str,
)
def test_a_false_declaration_is_found(sampler, said):
    with pytest.raises((ConfigurationError, NumericsError), match=said):
        check_sampler(sampler, [VPPath()])


class Own(NoisePath):
    """A path of the user's own that is right."""

    t_min, t_max = 0.01, 1.0

    def _log_snr(self, t):
        return -4.0 * torch.log(t / (1.001 - t))

    def _time(self, log_snr):
        ratio = torch.exp(-log_snr / 4.0)
        return (1.001 * ratio / (1.0 + ratio)).clamp(self.t_min, self.t_max)

    def _alpha_sigma(self, log_snr):
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


FAULTS = {
    "inverse": ({"_time": lambda self, v: Own._time(self, v) ** 1.1}, "_time: the time of log SNR"),
    "rises": ({"_log_snr": lambda self, t: 4.0 * t.log()}, "_log_snr: log SNR does not fall from t = 0.01"),
    "levels": ({"_alpha_sigma": lambda self, v: (v.sigmoid(), 1.1 * (-v).sigmoid())}, "_alpha_sigma: α = .* not"),
    "detached": ({"_log_snr": lambda self, t: Own._log_snr(self, t.detach())}, "derivative at t = .* by autograd"),
    "nan": ({"_log_snr": lambda self, t: t * torch.nan}, "log SNR is nan at t = 0.01"),
    "shape": ({"_log_snr": lambda self, t: t.sum()}, r"returns \(\) for shape"),
    "raises": ({"_time": lambda self, v: v.nothing}, "_time: raises AttributeError"),
    "fractions": ({"fraction_at": lambda self, t: t * t}, r"fraction_at: time_at\(0.25\)"),
    "range": ({"t_min": 2.0}, r"t_min: the times are \[2.0, 1.0\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_path_of_ones_own_is_checked_when_it_is_made(fault):
    Own()
    changes, said = FAULTS[fault]
    with pytest.raises(ConfigurationError, match=said):
        type("Wrong", (Own,), changes)()


class FromPower(Own):
    """log SNR = 10 − 20·u^0.8, with an infinite derivative at u = 0; u is t, or 1 − t with the sign turned."""

    t_min, turned = 0.0, False

    def _log_snr(self, t):
        return 20.0 * (1.0 - t) ** 0.8 - 10.0 if self.turned else 10.0 - 20.0 * t**0.8

    def _time(self, log_snr):
        u = (((10.0 + log_snr) if self.turned else (10.0 - log_snr)) / 20.0) ** 1.25
        return 1.0 - u if self.turned else u


@pytest.mark.parametrize(("turned", "end"), [(False, 0), (True, 1)])
def test_a_path_with_an_infinite_derivative_at_an_end_is_refused(turned, end):
    steep = type("Steep", (FromPower,), {"turned": turned})
    with pytest.raises(
        ConfigurationError, match=rf"(?s)_log_snr: its derivative at t = {end} is -inf, and rates.*t_min or t_max"
    ):
        steep()
    inside = type("Inside", (steep,), {"t_max": 0.999} if turned else {"t_min": 0.001, "t_origin": 0.0})()
    assert np.isfinite([inside.rates(t) for t in (inside.t_min, inside.t_max)]).all()


def test_rates_at_ends_without_signal_and_without_noise():
    """Log SNR is infinite there on purpose; the rates are those just inside."""

    class Straight(Own):
        t_min = 0.0

        def _log_snr(self, t):
            return 2.0 * torch.log((1.0 - t) / t)

        def _time(self, log_snr):
            return torch.sigmoid(-log_snr / 2.0)

        def _alpha_sigma(self, log_snr):
            return torch.sigmoid(log_snr / 2.0), torch.sigmoid(-log_snr / 2.0)

    for t in (0.0, 0.5, 1.0):
        assert Straight().rates(t) == pytest.approx((-1.0, 1.0))


@pytest.mark.parametrize("space", ["v_prediction", "flow_prediction", "x0"])
def test_a_multistep_sampler_of_another_quantity_is_refused_when_it_is_made(space):
    class Wrong(MultistepSampler):
        pass

    Wrong.space = space
    with pytest.raises(ConfigurationError, match=rf"(?s)Wrong\.space: got '{space}'.*AdamsSampler"):
        Wrong(VPPath())
    with pytest.raises(ConfigurationError, match=r"Wrong\.space"):
        DiffusionPipeline(VPPath(), Wrong)
    for known in ("sample", "epsilon"):
        Wrong.space = known
        assert len(Wrong(VPPath()).plan(5)) == 5


def test_a_multistep_sampler_without_options_has_the_order_of_its_class():
    class Second(MultistepSampler):
        order = 2
        declared_options = {}

    assert Second(VPPath()).plan(6).b.shape[1] == 2
    assert check_sampler(Second, [VPPath()]).order == pytest.approx(2.0, abs=0.2)
    with pytest.raises(ConfigurationError, match=r"Wrong\.variable: got 'lamda'(?s:.*)'log_snr', 'sigma', 'time'"):
        type("Wrong", (MultistepSampler,), {"variable": "lamda"})(VPPath())


@pytest.mark.parametrize("path", PATHS)
def test_the_librarys_own_paths_pass_the_same_check(path):
    check_path(path())


class Forgetful(Guidance):
    def write(self, formula):
        formula.conditional + 0.5 * (formula.conditional - formula.x)


class Returning(Guidance):
    def write(self, formula):
        return formula.value * 2.0


class Opposing(Guidance):
    def write(self, formula):
        formula.value = formula.value + 2.0 * (formula.conditional - formula.unconditional)


class Numeric(Guidance):
    def write(self, formula):
        formula.value = 3.0


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        (Forgetful(), "Forgetful sets formula.value at no level"),
        (Returning(), "Returning.write returns"),
        (Opposing(), "Opposing contrasts the condition with its absence, and there is no condition"),
        (Numeric(), "formula.value: got 3.0"),
    ],
)
def test_guidance_that_would_do_nothing_is_refused_before_the_first_call(guidance, said):
    calls = []
    pipeline = DiffusionPipeline(NoiseSchedulerConfig())
    with pytest.raises(ConfigurationError, match=said):
        pipeline.sample(lambda x, t: calls.append(t) or x, (1, 4), 5, guidance=guidance)
    assert calls == []


def test_guidance_that_keeps_the_value_on_purpose_runs():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig())

    def model(x, t, label=None):
        return 0.1 * x

    plain = pipeline.sample(model, (1, 4), 5, seed=0)
    silent = Energy(lambda x, moment: x.square().sum(), scale=0.0)
    assert torch.equal(pipeline.sample(model, (1, 4), 5, seed=0, guidance=silent), plain)
    condition = {"label": torch.zeros(1)}
    for behind in (Interval(0.0, 1e-9), Rescale(0.0), Interval(0.0, 1e9)):
        sequence = [ClassifierFree(1.0), behind]
        again = pipeline.sample(model, (1, 4), 5, seed=0, guidance=sequence, condition=condition)
        torch.testing.assert_close(again, plain)
    assert pipeline.sample(model, (1, 4), 5, seed=0, guidance=Opposing(), condition=condition).shape == (1, 4)


def test_what_an_author_needs_is_public():
    for name in ("Form", "PlanBuilder", "Prediction", "Level", "Option", "along", "from_noise", "MultistepSampler",
                 "SingleStepSampler", "TimeGrid", "check_sampler"):  # fmt: skip
        assert name in public_names()
        assert getattr(library, name)
    assert issubclass(SCHEDULES.get("flow"), NoisePath)
    assert MultistepSampler.declared_options["order"].minimum == 1
    assert isinstance(TimeGrid.from_times(VDiffusionPath(), [0.9, 0.5]).levels[0], Level)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing.get_overloads came with Python 3.11")
def test_the_overloads_say_what_is_returned_and_know_every_keyword():
    """``mypy tests/typed_calls.py`` checks the types themselves."""
    import inspect

    kinds = [each.__annotations__["return"] for each in typing.get_overloads(DiffusionPipeline.sample)]
    assert kinds == ["Tensor", "SamplingResult", "Tensor | SamplingResult"]
    assert SamplingResult.__name__ in [
        f.__annotations__["return"] for f in typing.get_overloads(DiffusionPipeline.generate)
    ]
    assert len(typing.get_overloads(DiffusionPipeline.calibrate)) == 4
    parameters = inspect.signature(DiffusionPipeline.sample).parameters.values()
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"return_result"}
    assert set(RunKeywords.__annotations__) == keywords
