"""Guidance: each kind against its formula on exact models, their relations, their cost, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    DiffusionPipeline,
    ModelOutputError,
    NoiseSchedulerConfig,
    RunState,
    TimeGrid,
)
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    AutoGuidance,
    CFGZeroStar,
    ClassifierFree,
    Composed,
    DynamicThreshold,
    Energy,
    Formula,
    Guidance,
    Interval,
    Moment,
    Rescale,
    evaluations,
)
from noise_scheduler_sampling_system.models import GaussianMixtureModel, GaussianModel
from noise_scheduler_sampling_system.running.clipping import dynamic_threshold
from noise_scheduler_sampling_system.running.loop import RowState
from operations import HOST_READS, Count

STEPS, BATCH, SIZE = 5, 3, 6
MEANS = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])
KINDS: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 3, "dtype": torch.float64}
SHAPE = (BATCH, SIZE)
CONDITION = {"condition": {"class_labels": LABELS}}
OTHER = {"class_labels": torch.tensor([1, 2, 0])}


def pipeline(kind: str = "sample", schedule: str = "linear", method: Any = "ddim", **fields: Any) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule, prediction_type=kind, **fields), method)


def mixture(run: DiffusionPipeline, kind: str | None = None, width: float = 0.1) -> GaussianMixtureModel:
    return GaussianMixtureModel(
        run.scheduler, MEANS, width, labels=[0, 1, 2, 2], prediction_type=kind or run.config.prediction_type
    )


class Counting:
    """A model that counts what it evaluates for each sample, call by call."""

    def __init__(self, model: Any) -> None:
        self.model, self.counts = model, []

    def __call__(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.counts.append(len(x) // BATCH)
        return self.model(x, t, **condition)

    def null_condition(self, condition: Any) -> Any:
        return self.model.null_condition(condition)


@dataclass
class At:
    """One model call as a formula sees it, everything as clean samples."""

    model: GaussianMixtureModel
    weaker: GaussianMixtureModel
    x: Tensor
    t: Tensor
    moment: Moment
    past: dict[str, Tensor]

    @property
    def c(self) -> Tensor:
        return self.model.denoise(self.x, self.t, class_labels=LABELS)

    @property
    def u(self) -> Tensor:
        return self.model.denoise(self.x, self.t)

    @property
    def other(self) -> Tensor:
        return self.model.denoise(self.x, self.t, **OTHER)

    @property
    def weak(self) -> Tensor:
        return self.weaker.denoise(self.x, self.t, class_labels=LABELS)

    def flow(self, clean: Tensor) -> Tensor:
        """ε − x₀."""
        _, alpha, sigma = self.moment.level
        return (self.x - alpha * clean) / sigma - clean

    def unflow(self, flow: Tensor) -> Tensor:
        _, alpha, sigma = self.moment.level
        return (self.x - sigma * flow) / (alpha + sigma)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def rescaled(at: At) -> Tensor:
    value = at.u + 4.0 * (at.c - at.u)
    return 0.7 * value * at.c.std(1, keepdim=True) / value.std(1, keepdim=True) + 0.3 * value


def flow_rescaled(at: At) -> Tensor:
    value, c = at.flow(at.u + 4.0 * (at.c - at.u)), at.flow(at.c)
    return at.unflow(0.7 * value * c.std(1, keepdim=True) / value.std(1, keepdim=True) + 0.3 * value)


def apg(at: At) -> Tensor:
    delta = at.c - at.u
    if "delta" in at.past:
        delta = delta - 0.5 * at.past["delta"]
    at.past["delta"] = delta
    delta = delta * (0.3 / delta.norm(dim=1, keepdim=True)).clamp(max=1.0)
    parallel = dot(delta, at.c) / dot(at.c, at.c) * at.c
    return at.c + 3.0 * (delta - parallel + 0.2 * parallel)


def zero_star(at: At) -> Tensor:
    if at.moment.step == 0:
        return at.unflow(torch.zeros_like(at.x))
    c, u = at.flow(at.c), at.flow(at.u)
    best = dot(c, u) / dot(u, u) * u
    return at.unflow(best + 3.0 * (c - best))


def threshold(at: At) -> Tensor:
    value = at.u + 4.0 * (at.c - at.u)
    q = torch.quantile(value.abs(), 0.8, dim=1, keepdim=True).clamp(1.0, 1.5)
    return value.clamp(-q, q) / q


def linear_ramp(at: At) -> Tensor:
    return at.u + (1.0 + 4.0 * at.moment.step / (STEPS - 1)) * (at.c - at.u)


def cosine_ramp(at: At) -> Tensor:
    share = (1.0 - math.cos(math.pi * at.moment.step / (STEPS - 1))) / 2.0
    return at.u + (6.0 - 4.0 * share) * (at.c - at.u)


def inside(at: At) -> Tensor:
    return at.u + (4.0 if 0.2 <= at.moment.sigma <= 5.0 else 1.0) * (at.c - at.u)


#: A sequence of guidance, and the guided clean sample by its formula.
FORMULAS: dict[str, tuple[Any, Any]] = {
    "cfg": (ClassifierFree(4.0), lambda at: at.u + 4.0 * (at.c - at.u)),
    "interpolation": (ClassifierFree(0.3), lambda at: at.u + 0.3 * (at.c - at.u)),
    "linear": (ClassifierFree(("linear", 1.0, 5.0)), linear_ramp),
    "cosine": (ClassifierFree(("cosine", 6.0, 2.0)), cosine_ramp),
    "function": (ClassifierFree(lambda m: 1.0 + m.flow_sigma), lambda at: at.c + at.moment.flow_sigma * (at.c - at.u)),
    "interval": ([ClassifierFree(4.0), Interval(0.2, 5.0)], inside),
    "rescale": ([ClassifierFree(4.0), Rescale(0.7)], rescaled),
    "rescale flow": ([ClassifierFree(4.0), Rescale(0.7, of="flow_prediction")], flow_rescaled),
    "apg": (AdaptiveProjected(4.0, eta=0.2, norm_threshold=0.3, momentum=-0.5), apg),
    "zero*": (CFGZeroStar(3.0, zero_steps=1), zero_star),
    "auto": (lambda weaker: AutoGuidance(weaker, 2.5), lambda at: at.weak + 2.5 * (at.c - at.weak)),
    "auto and cfg": (
        lambda weaker: [ClassifierFree(3.0), AutoGuidance(weaker, 2.5)],
        lambda at: at.c + 2.0 * (at.c - at.u) + 1.5 * (at.c - at.weak),
    ),
    "composed": (
        [ClassifierFree(3.0), Composed([(OTHER, -1.5)])],
        lambda at: at.u + 3.0 * (at.c - at.u) - 1.5 * (at.other - at.u),
    ),
    "threshold": ([ClassifierFree(4.0), DynamicThreshold(0.8, largest=1.5)], threshold),
}


def by_hand(run: DiffusionPipeline, formula: Any, plan: Any) -> Tensor:
    """The samples that a formula for the guided clean sample leads to."""
    run = pipeline("sample", run.config.beta_schedule, run.method)
    model, weaker, past, calls = mixture(run), mixture(run, width=0.5), {}, iter(range(len(plan)))

    def guided(x: Tensor, t: Tensor) -> Tensor:
        i = next(calls)
        level = run.scheduler.level(float(plan.time[i]))
        return formula(At(model, weaker, x, t, Moment(level, int(plan.step[i]), plan.steps), past))

    return run.sample(guided, SHAPE, **KINDS)


@pytest.mark.parametrize("schedule", ["linear", "flow"])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_prediction_type_gives_what_the_formula_gives(name, schedule):
    guidance, formula = FORMULAS[name]
    for kind in PREDICTION_TYPES:
        if (schedule, kind) == ("flow", "epsilon"):
            continue  # the flow begins without signal, where ε determines nothing
        run = pipeline(kind, schedule)
        made = guidance(mixture(run, width=0.5)) if callable(guidance) else guidance
        result = run.sample(mixture(run), SHAPE, **KINDS, **CONDITION, guidance=made)
        expected = by_hand(run, formula, run.plan(STEPS))
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6, msg=lambda m, kind=kind: f"{kind}: {m}")


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_rescaling_the_output_is_what_other_libraries_do(kind):
    run, outputs = pipeline(kind), []
    model = mixture(run)

    def reference(x, t):
        c, u = model(x, t, class_labels=LABELS), model(x, t)
        value = u + 4.0 * (c - u)
        outputs.append(value)
        return 0.6 * value * c.std(1, keepdim=True) / value.std(1, keepdim=True) + 0.4 * value

    got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(4.0), Rescale(0.6, of="output")])
    torch.testing.assert_close(got, run.sample(reference, SHAPE, **KINDS), rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------- relations


@pytest.mark.parametrize("method", ["ddim", "heun", "pndm", "ddpm"])
@pytest.mark.parametrize(
    "same",
    [
        [ClassifierFree(4.0)],
        ClassifierFree(lambda moment: 4.0),
        ClassifierFree(("cosine", 4.0, 4.0)),
        [ClassifierFree(4.0), Rescale(0.0)],
        [ClassifierFree(4.0), Interval(0.0, math.inf)],
        [ClassifierFree(4.0), Interval(0, 100, unit="step")],
        [ClassifierFree(4.0), Interval(0, 1, unit="fraction")],
        AdaptiveProjected(4.0, eta=1.0, momentum=0.0),
        [ClassifierFree(2.0), Composed([({"class_labels": LABELS}, 2.0)])],
        [ClassifierFree(4.0), DynamicThreshold(1.0, smallest=1.0, largest=math.inf), Interval(-2, -1, "step")],
    ],
    ids=lambda g: repr(g)[:60],
)
def test_special_cases_are_classifier_free_guidance(method, same):
    run = pipeline("epsilon", method=method)
    model = mixture(run)
    plain = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance_scale=4.0)
    if isinstance(same, list) and isinstance(same[-1], Interval) and same[-1].high < 0:  # nothing acts
        plain = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance_scale=1.0)
    torch.testing.assert_close(
        run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=same), plain, rtol=1e-9, atol=1e-9
    )


def test_guidance_by_the_same_model_is_none_and_an_empty_sequence_is_none():
    run = pipeline("v_prediction")
    model = mixture(run)
    plain = run.sample(model, SHAPE, **KINDS, **CONDITION, classifier_free_guidance=False)
    for guidance in (AutoGuidance(model, 3.0), AutoGuidance(mixture(run, "epsilon"), 3.0, "eps"), [], ()):
        got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=guidance)
        torch.testing.assert_close(got, plain, rtol=1e-7, atol=1e-8)
    unconditional = run.sample(model, SHAPE, **KINDS)
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, guidance=AutoGuidance(model, 3.0)), unconditional)


def test_composed_conditions_need_no_main_one():
    run = pipeline("epsilon")
    model = mixture(run)
    main = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(3.0), Composed([(OTHER, 0.7)])])
    alone = Composed([({"class_labels": LABELS}, 3.0), (OTHER, 0.7)])
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, guidance=alone), main)
    null = {"class_labels": torch.tensor(3)}
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, guidance=alone, null_condition=null), main)


def test_a_sum_of_directions_does_not_depend_on_the_order():
    run = pipeline("epsilon")
    model, weaker = mixture(run), mixture(run, width=0.5)
    parts = [ClassifierFree(3.0), AutoGuidance(weaker, 1.5), Composed([(OTHER, 0.5)])]
    one = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=parts)
    torch.testing.assert_close(run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=parts[::-1]), one)


def test_a_guidance_of_ones_own():
    @dataclass(frozen=True)
    class Damped(Guidance):
        factor: float

        def write(self, formula: Formula) -> None:
            clean = formula.to("sample", formula.value)
            formula.value = formula.of("sample", formula.make(lambda c: self.factor * c, clean))

    run = pipeline("epsilon")
    model = mixture(run)

    def expected(x, t):
        level = run.scheduler.level(float(t[0]))
        return (x - level.alpha * 0.9 * model.denoise(x, t)) / level.sigma

    torch.testing.assert_close(
        run.sample(model, SHAPE, **KINDS, guidance=Damped(0.9)), run.sample(expected, SHAPE, **KINDS)
    )


# ------------------------------------------------------------------------------- energies


def posterior_mean(run: DiffusionPipeline, width: float, t: Tensor) -> tuple[float, float, float]:
    """E[x₀ | x] = gain·x for data N(0, width): the gain, α and σ."""
    _, alpha, sigma = run.scheduler.level(float(t[0]))
    return alpha * width / (alpha**2 * width + sigma**2), alpha, sigma


def energy(sample: Tensor, moment: Moment) -> Tensor:
    return (sample - 0.4).square().flatten(1).sum(1) / 2.0


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("given", ["energy", "gradient"])
@pytest.mark.parametrize(("of", "through"), [("sample", None), ("sample", True), ("sample", False), ("x", None)])
def test_energy_on_a_gaussian(kind, given, of, through):
    """∇ₓE in closed form: E's gradient, times ∂x₀/∂x, which is the gain, or 1/α with ε held fixed."""
    run, width = pipeline(kind), 0.3
    model = GaussianModel(run.scheduler, torch.zeros(SIZE), width, prediction_type=kind)
    function = {"energy": energy} if given == "energy" else {"gradient": lambda sample, moment: sample - 0.4}

    def expected(x, t):
        gain, alpha, sigma = posterior_mean(run, width, t)
        slope = x - 0.4 if of == "x" else (gain * x - 0.4) * (gain if through is not False else 1.0 / alpha)
        epsilon = (x - alpha * gain * x) / sigma + sigma * 0.3 * slope
        return (x - sigma * epsilon) / alpha

    options = {} if through is None else {"through_model": through}
    got = run.sample(model, SHAPE, **KINDS, guidance=Energy(scale=0.3, of=of, **function, **options))
    torch.testing.assert_close(got, pipeline().sample(expected, SHAPE, **KINDS), rtol=1e-7, atol=1e-7)


def test_energy_sees_the_guidance_before_it_and_adds_to_it():
    run = pipeline("epsilon")
    model = mixture(run)

    def expected(x, t):
        level = run.scheduler.level(float(t[0]))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            c, u = model(leaf, t, class_labels=LABELS), model(leaf, t)
            value = u + 2.0 * (c - u)
            total = energy((leaf - level.sigma * value) / level.alpha, None).sum()
            slope = torch.autograd.grad(total, leaf)[0]
        return (value + level.sigma * 0.05 * slope).detach()

    got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(2.0), Energy(energy, 0.05)])
    torch.testing.assert_close(got, run.sample(expected, SHAPE, **KINDS), rtol=1e-7, atol=1e-7)
    with torch.inference_mode():
        inside = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(2.0), Energy(energy, 0.05)])
    assert torch.equal(inside, got)
    assert not got.requires_grad


@pytest.mark.parametrize(
    "guidance", [Energy(energy, 0.1), Energy(energy, 0.1, of="x"), Energy(energy, 0.1, None, "sample", False)]
)
def test_gradients_pass_through_energy_guidance(guidance):
    run = pipeline("epsilon")
    model = mixture(run)

    def total(shift: Tensor) -> Tensor:
        return run.sample(
            lambda x, t: model(x, t) + shift * torch.tanh(x), SHAPE, **KINDS, guidance=guidance, differentiable=True
        ).sum()

    shift = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(total(shift), shift)[0]
    h = 1e-5
    numeric = (total(shift.detach() + h) - total(shift.detach() - h)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-7)


def test_a_model_without_gradients_is_told_so():
    run = pipeline("epsilon")
    model = torch.no_grad()(mixture(run).__call__)
    with pytest.raises(ConfigurationError, match="no gradient"):
        run.sample(model, SHAPE, **KINDS, guidance=Energy(energy))
    run.sample(model, SHAPE, **KINDS, guidance=Energy(energy, through_model=False))


@pytest.mark.parametrize(
    "bad", [Energy(lambda s, m: s), Energy(lambda s, m: 1.0), Energy(lambda s, m: s.detach().flatten(1).sum(1)),
            Energy(gradient=lambda s, m: s.sum())],
)  # fmt: skip
def test_energies_of_the_wrong_kind_are_refused(bad):
    run = pipeline("epsilon")
    with pytest.raises(ConfigurationError, match=r"the (energy|gradient) is"):
        run.sample(mixture(run), SHAPE, **KINDS, guidance=bad)


# ------------------------------------------------------------------------------- evaluations


@pytest.mark.parametrize(
    ("guidance", "counts"),
    [
        ([], [1, 1, 1, 1, 1]),
        (ClassifierFree(3.0), [2, 2, 2, 2, 2]),
        (ClassifierFree(1.0), [1, 1, 1, 1, 1]),
        (ClassifierFree(0.0), [1, 1, 1, 1, 1]),
        (ClassifierFree(("linear", 1.0, 3.0)), [1, 2, 2, 2, 2]),
        ([ClassifierFree(3.0), Interval(1, 2, "step")], [1, 2, 2, 1, 1]),
        ([AdaptiveProjected(3.0), Interval(0.5, 1.0, "fraction"), DynamicThreshold()], [1, 1, 2, 2, 2]),
        ([ClassifierFree(3.0), Rescale(0.5), Interval(3, 3, "step")], [1, 1, 1, 2, 1]),
        (CFGZeroStar(3.0, zero_steps=2), [0, 0, 2, 2, 2]),
        ([ClassifierFree(3.0), Composed([(OTHER, 1.0), (OTHER, -0.5)])], [3, 3, 3, 3, 3]),
        ([ClassifierFree(3.0), Composed([(OTHER, ("linear", 0.0, 1.0))])], [2, 3, 3, 3, 3]),
        (DynamicThreshold(), [1, 1, 1, 1, 1]),
        (Energy(energy), [1, 1, 1, 1, 1]),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_evaluations_are_told_counted_and_made(guidance, counts):
    run = pipeline("epsilon")
    model = Counting(mixture(run))
    result = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=guidance, return_result=True)
    assert model.counts == [n for n in counts if n]
    assert list(evaluations(guidance, run.plan(STEPS))) == counts
    assert result.evaluations == sum(counts)
    assert result.nfe == STEPS


def test_evaluations_of_the_weaker_model_count():
    run = pipeline("epsilon", method="heun")
    model, weaker = Counting(mixture(run)), Counting(mixture(run, width=0.5))
    result = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=AutoGuidance(weaker, 2.0), return_result=True)
    nfe = run.plan(STEPS).nfe
    assert model.counts == weaker.counts == [1] * nfe
    assert (result.nfe, result.evaluations) == (nfe, 2 * nfe)
    assert run.sample(model, SHAPE, **KINDS, return_result=True).evaluations == nfe
    assert run.sample(model, SHAPE, **KINDS, **CONDITION, return_result=True).evaluations == 2 * nfe


def test_evaluations_end_where_a_run_ends_early():
    run = pipeline("epsilon")
    kinds = {**KINDS, "num_inference_steps": 50}
    model = Counting(mixture(run))
    result = run.sample(model, SHAPE, **kinds, **CONDITION, guidance_scale=1.5, early_stopping=0.05, return_result=True)
    assert result.stopped_early
    assert result.evaluations == sum(model.counts) == 2 * result.nfe < 100


@pytest.mark.parametrize(
    ("guidance", "most"),
    [
        ([], 0),
        (ClassifierFree(3.0), 1),
        (AutoGuidance(lambda x, t, c: x, 2.0), 1),
        ([ClassifierFree(3.0), Interval(90, 91, "step")], 0),
        ([ClassifierFree(3.0), Composed([({"c": torch.ones(2, 3)}, 0.5)])], 2),
        ([ClassifierFree(3.0), Rescale(0.7, of="output")], 4),
        ([ClassifierFree(3.0), Rescale(0.7)], 7),
        (CFGZeroStar(3.0), 8),
        (AdaptiveProjected(3.0, norm_threshold=5.0), 10),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_full_size_operations_a_call(guidance, most):
    """What guidance costs beyond the model and the step: linear guidance one pass for each term."""
    noise, steps = torch.randn(2, 4, 96, 96), 10
    run = pipeline("v_prediction")
    outputs = {count: torch.randn(count * 2, 4, 96, 96) for count in (1, 2, 3)}
    run.plan(steps)
    with Count() as count:
        run.sample(
            lambda x, t, c: outputs[len(x) // 2], num_inference_steps=steps, initial_noise=noise,
            condition={"c": torch.zeros(2, 3)}, guidance=guidance,
        )  # fmt: skip
    full = [n for n, size in zip(count.names, count.largest, strict=True) if size >= noise.numel() and n != "cat"]
    assert len(full) <= (most + 1) * steps + 8  # the step's own pass, and what is done once
    assert sum(name in HOST_READS for name in count.names) <= 3  # whether the start and the result are finite


# ------------------------------------------------------------------------------- the memory of a run

APG = AdaptiveProjected(4.0, momentum=-0.7)


@pytest.mark.parametrize("method", ["ddim", "heun", "ddpm"])
def test_momentum_is_neither_shared_nor_mixed(method):
    run = pipeline("epsilon", method=method)
    model = mixture(run)

    def sample(**more: Any) -> Tensor:
        return run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=APG, **more)

    alone = sample()
    without = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=AdaptiveProjected(4.0, momentum=0.0))
    assert (alone - without).abs().max() > 1e-3
    assert torch.equal(sample(), alone)
    torch.testing.assert_close(sample(max_batch_size=2), alone)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(other, alone) for other in pool.map(lambda _: sample(), range(8)))


def test_momentum_survives_running_out_of_memory():
    run, seen = pipeline("epsilon"), []
    model = mixture(run)

    def small(x, t, **condition):
        seen.append(len(x))
        if len(x) > 4 and len(seen) > 2:  # after two steps have filled the memory of the whole batch
            raise torch.cuda.OutOfMemoryError("out of memory")
        return model(x, t, **condition)

    kinds = {**KINDS, **CONDITION, "null_condition": {"class_labels": 3}, "guidance": APG}
    torch.testing.assert_close(run.sample(small, SHAPE, **kinds), run.sample(model, SHAPE, **kinds))
    assert seen[:3] == [6, 6, 6]
    assert max(seen[3:]) == 4


def test_momentum_is_part_of_what_is_saved(tmp_path):
    run = pipeline("epsilon")
    model = mixture(run)
    kinds = {**CONDITION, "guidance": APG}
    whole = list(run.stream(model, SHAPE, **KINDS, **kinds))
    assert torch.equal(whole[-1].x, run.sample(model, SHAPE, **KINDS, **kinds))
    whole[1].state.save(tmp_path / "run.safetensors")
    saved = RunState.load(tmp_path / "run.safetensors")
    for state in (whole[1].state, saved):
        again = list(run.stream(model, resume=state, **kinds))
        assert [step.index for step in again] == [2, 3, 4]
        assert all(torch.equal(a.x, b.x) for a, b in zip(again, whole[2:], strict=True))


# ------------------------------------------------------------------------------- CFG++


class PlusPlus(BaseSampler):
    """DDIM whose noise is the unconditional branch's (Chung et al. 2024, arXiv 2406.08070, Alg. 2)."""

    def write(self, build, grid):
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            build.advance(after.alpha * p.sample + after.sigma * p.null_epsilon)


def plus_plus(run: DiffusionPipeline, model: Any, scale: float, limit: float = math.inf) -> Tensor:
    """CFG++ as a loop."""
    levels = run.grid(STEPS).levels
    x = START * math.hypot(levels[0].alpha, levels[0].sigma)
    for now, after in itertools.pairwise(levels):
        t = torch.full((BATCH,), now.t)
        c, u = model.denoise(x, t, class_labels=LABELS), model.denoise(x, t)
        clean = (u + scale * (c - u)).clamp(-limit, limit)
        x = after.alpha * clean + after.sigma * (x - now.alpha * u) / now.sigma
    return x


START = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FROM: dict[str, Any] = {"num_inference_steps": STEPS, "initial_noise": START, "dtype": torch.float64}


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("clip", [False, True])
def test_cfg_plus_plus_is_its_loop(kind, scale, clip):
    run = pipeline(kind, method=PlusPlus, clip_sample=clip, clip_sample_range=0.5)
    model = Counting(mixture(run))
    seen: list[Tensor] = []
    result = run.sample(
        model, **FROM, **CONDITION, guidance_scale=scale, return_result=True,
        callback=lambda step: seen.append(step.pred_original_sample),
    )  # fmt: skip
    expected = plus_plus(run, model.model, scale, 0.5 if clip else math.inf)
    torch.testing.assert_close(result.samples, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(seen[-1], result.samples, rtol=1e-7, atol=1e-7)
    assert result.evaluations == sum(model.counts)
    assert model.counts[0] == (1 if scale == 0.0 else 2)
    for name, more in {"settled": {"early_stopping": 1e-12}, "parts": {"max_batch_size": 1}}.items():
        got = run.sample(model.model, **FROM, **CONDITION, guidance=ClassifierFree(scale), **more)
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7, msg=name)


def test_cfg_plus_plus_without_a_condition_is_ddim():
    run, plain = pipeline("epsilon", method=PlusPlus), pipeline("epsilon")
    model = Counting(mixture(run))
    torch.testing.assert_close(run.sample(model, **FROM), plain.sample(model.model, **FROM))
    assert model.counts == [1] * STEPS
    both = {**FROM, **CONDITION, "classifier_free_guidance": False}
    torch.testing.assert_close(run.sample(model, **both), plain.sample(model.model, **both))
    assert model.counts == [1] * 2 * STEPS


def test_cfg_plus_plus_with_a_learned_variance_and_reused_memory():
    run = pipeline("epsilon", method=PlusPlus, variance_type="learned_range")
    model, buffer = mixture(run), torch.empty(2 * BATCH, 2 * SIZE, dtype=torch.float64)

    def doubled(x, t, class_labels):
        return buffer.copy_(torch.cat([model(x, t, class_labels=class_labels), torch.sin(x)], dim=1))

    got = run.sample(doubled, **FROM, **CONDITION, null_condition={"class_labels": 3}, guidance_scale=0.6)
    torch.testing.assert_close(got, plus_plus(run, model, 0.6), rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------- the kinds of models


@pytest.mark.parametrize(
    "guidance",
    [
        [ClassifierFree(3.0), Rescale(0.7)],
        AdaptiveProjected(3.0, momentum=0.0),
        CFGZeroStar(3.0, 1),
        [ClassifierFree(3.0), Interval(1, 2, "step")],
        Energy(energy, 0.05),
    ],
    ids=lambda g: repr(g)[:40],
)
def test_learned_variances_are_the_conditional_branchs(guidance):
    """Each step equals the step on a model that returns the guided mean beside the conditional branch's variance."""
    run = pipeline("epsilon", method="ddpm", variance_type="learned_range")
    model = mixture(run)

    def doubled(x, t, class_labels):
        return torch.cat([model(x, t, class_labels=class_labels), torch.sin(class_labels.reshape(-1, 1) + x)], dim=1)

    with_null = {**CONDITION, "null_condition": {"class_labels": 3}, "guidance": guidance}
    states = list(run.stream(doubled, **FROM, seed=1, **with_null))
    first = next(run.stream(lambda x, t: torch.cat([x, x], 1), **FROM, seed=1)).state
    start = START * run.plan(STEPS).prior_scale
    state = RunState(first.plan, RowState(0, start, {}), first.keys, first.settings)
    for step in states:
        x = state.state.x
        guided = guided_once(pipeline("epsilon"), model, x, step.index, guidance)
        whole = torch.cat([guided, torch.sin(LABELS.reshape(-1, 1) + x)], dim=1)
        again = next(run.stream(lambda x, t, whole=whole: whole, resume=state))
        torch.testing.assert_close(again.x, step.x, rtol=1e-9, atol=1e-9)
        state = dataclasses.replace(step.state, model=None)  # another model on purpose


def guided_once(run: DiffusionPipeline, model: Any, x: Tensor, step: int, guidance: Any) -> Tensor:
    """The guided output about x at one step."""
    seen: list[Tensor] = []

    class Recorder(BaseSampler):
        def step(self, model_output, timestep, sample):
            seen.append(model_output)
            return torch.zeros_like(sample)

    levels = DiffusionPipeline(run.config, Recorder)
    grid = levels.grid(STEPS)
    outputs = levels.stream(model, initial_sample=x, dtype=torch.float64, grid=grid, guidance=guidance, **CONDITION)
    if step:
        first = next(levels.stream(lambda x, t: x, initial_sample=x, grid=grid, seed=0)).state
        there = RunState(first.plan, RowState(step, x, {}), first.keys, first.settings)
        outputs = levels.stream(model, resume=there, guidance=guidance, **CONDITION)
    seen.clear()
    next(outputs)
    return seen[-1]


@pytest.mark.parametrize("guidance", [[ClassifierFree(3.0), Rescale(0.7)], APG, CFGZeroStar(3.0), Energy(energy, 0.05)])
def test_half_precision_models_are_combined_in_the_states_precision(guidance):
    run = pipeline("v_prediction", "flow")
    exact = mixture(run)

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.bfloat16))

        def forward(self, x, t, class_labels=None):
            assert x.dtype == torch.bfloat16
            wide = x.float()
            return (exact(wide, t) if class_labels is None else exact(wide, t, class_labels=class_labels)).bfloat16()

        def null_condition(self, condition):
            return exact.null_condition(condition)

    @dataclass(frozen=True)
    class InStatePrecision(Guidance):
        def write(self, formula: Formula) -> None:
            formula.value = formula.make(self.checked, formula.conditional, formula.value)

        @staticmethod
        def checked(conditional: Tensor, value: Tensor) -> Tensor:
            assert (conditional.dtype, value.dtype) == (torch.float32, torch.float32)
            return value

    sequence = [*(guidance if isinstance(guidance, list) else [guidance]), InStatePrecision()]
    kinds = {"num_inference_steps": STEPS, "seed": 3, "guidance": sequence, **CONDITION}
    got = run.sample(Half(), SHAPE, **kinds)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, run.sample(exact, SHAPE, **kinds), rtol=0.1, atol=0.1)


def test_conditions_of_text_may_be_composed():
    """Embeddings, whose null is zeros; nested, and expanded from one row."""
    run = pipeline("epsilon")
    a, b = torch.randn(1, 2), torch.randn(BATCH, 2)

    def model(x, t, text):
        return x * 0.5 + text["embeds"].sum(1, keepdim=True)

    def expected(x, t):
        return x * 0.5 + 2.0 * a.sum(1, keepdim=True).expand(BATCH, 1) - 0.5 * b.sum(1, keepdim=True)

    got = run.sample(
        model, SHAPE, STEPS, seed=1, condition={"text": {"embeds": a}},
        guidance=[ClassifierFree(2.0), Composed([({"text": {"embeds": b}}, -0.5)])],
    )  # fmt: skip
    torch.testing.assert_close(got, run.sample(expected, SHAPE, STEPS, seed=1), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------- what is refused

REFUSED: list[tuple[Any, str]] = [
    (lambda: ClassifierFree("7"), "ClassifierFree.scale"),
    (lambda: ClassifierFree(math.nan), "ClassifierFree.scale"),
    (lambda: ClassifierFree(True), "ClassifierFree.scale"),
    (lambda: ClassifierFree(("square", 1, 2)), "ClassifierFree.scale"),
    (lambda: ClassifierFree(("linear", 1, math.inf)), "ClassifierFree.scale"),
    (lambda: Rescale(1.2), "Rescale.phi"),
    (lambda: Rescale(0.5, of="noise_level"), "Rescale.of"),
    (lambda: Interval(2.0, 1.0), "Interval.high"),
    (lambda: Interval(0.0, 1.0, unit="sigmas"), "Interval.unit"),
    (lambda: Interval(math.nan, 1.0), "Interval.low"),
    (lambda: DynamicThreshold(0.0), "DynamicThreshold.ratio"),
    (lambda: DynamicThreshold(1.5), "DynamicThreshold.ratio"),
    (lambda: DynamicThreshold(0.9, smallest=0.0), "DynamicThreshold.smallest"),
    (lambda: DynamicThreshold(0.9, smallest=2.0, largest=1.0), "DynamicThreshold.largest"),
    (lambda: AdaptiveProjected(2.0, eta=math.inf), "AdaptiveProjected.eta"),
    (lambda: AdaptiveProjected(2.0, norm_threshold=0.0), "AdaptiveProjected.norm_threshold"),
    (lambda: AdaptiveProjected(2.0, momentum=-1.0), "AdaptiveProjected.momentum"),
    (lambda: CFGZeroStar(2.0, zero_steps=-1), "CFGZeroStar.zero_steps"),
    (lambda: CFGZeroStar(2.0, of="flows"), "CFGZeroStar.of"),
    (lambda: AutoGuidance(3, 2.0), "model"),
    (lambda: AutoGuidance(lambda x, t: x, None), "AutoGuidance.scale"),
    (lambda: AutoGuidance(lambda x, t: x, 2.0, "epsilons"), "AutoGuidance.prediction_type"),
    (lambda: Composed([]), "Composed.terms"),
    (lambda: Composed({"a": 1}), "Composed.terms"),
    (lambda: Composed([({}, 1.0)]), "Composed.terms"),
    (lambda: Composed([(OTHER, "much")]), "Composed.terms[0]"),
    (lambda: Energy(), "Energy"),
    (lambda: Energy(energy, gradient=energy), "Energy"),
    (lambda: Energy(lambda x: x), "Energy.energy"),
    (lambda: Energy(gradient=3), "Energy.gradient"),
    (lambda: Energy(energy, of="clean"), "Energy.of"),
    (lambda: Energy(energy, of="x", through_model=True), "Energy.through_model"),
]


@pytest.mark.parametrize(("make", "where"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_options_out_of_range_are_refused(make, where):
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert raised.value.where == where
    assert raised.value.suggestion


def never(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("the model was called")


NULL = {"null_condition": {"class_labels": 3}}


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"guidance": 3.0}, "guidance"),
        ({"guidance": [ClassifierFree]}, "guidance"),
        ({"guidance": ClassifierFree(2.0)}, "guidance"),
        ({"guidance": AdaptiveProjected(2.0)}, "guidance"),
        ({"guidance": [DynamicThreshold(), CFGZeroStar(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": Rescale(0.5)}, "guidance"),
        ({**CONDITION, **NULL, "guidance": [Interval(0, 1), ClassifierFree(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": [ClassifierFree(2.0), CFGZeroStar(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": [ClassifierFree(2.0), ClassifierFree(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": ClassifierFree(2.0), "guidance_scale": 3.0}, "guidance_scale"),
        ({**CONDITION, **NULL, "guidance": [], "classifier_free_guidance": False}, "classifier_free_guidance"),
        ({**CONDITION, **NULL, "guidance": ClassifierFree(lambda m: math.nan)}, "ClassifierFree.scale at step 0"),
        (
            {**CONDITION, **NULL, "guidance": ClassifierFree(lambda m: 1.0 if m.step < 3 else "a")},
            "ClassifierFree.scale at step 3",
        ),
        ({**CONDITION, **NULL, "guidance": CFGZeroStar(2.0, zero_steps=STEPS)}, "guidance"),
        ({**CONDITION, "guidance": ClassifierFree(2.0)}, "null_condition"),
        ({"guidance": Composed([(OTHER, 1.0)])}, "null_condition"),
        ({**CONDITION, **NULL, "guidance": Composed([({"class_label": LABELS}, 1.0)])}, "condition"),
        ({**CONDITION, **NULL, "guidance": Composed([({"class_labels": torch.ones(7)}, 1.0)])}, "guidance"),
        ({"null_condition": {"class_labels": 3}, "guidance": DynamicThreshold()}, "null_condition"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_call(options, where):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(never, SHAPE, **KINDS, **options)
    assert raised.value.where == where


def test_outputs_of_the_wrong_shape_are_named():
    run = pipeline()
    for wrong in (lambda x, t, **_: torch.cat([x, x], 1), lambda x, t, **_: x[:1], lambda x, t, **_: x[..., None]):
        for guidance in ([ClassifierFree(2.0), Rescale(0.5)], AutoGuidance(wrong, 2.0)):
            with pytest.raises(ModelOutputError, match="returned shape"):
                run.sample(wrong, SHAPE, **KINDS, **CONDITION, **NULL, guidance=guidance)


# ------------------------------------------------------------------------------- grids


def test_a_grid_is_run_as_it_is():
    run = pipeline("epsilon")
    model = mixture(run)
    whole = run.sample(model, **FROM)
    grid = run.grid(STEPS)
    start = {k: v for k, v in FROM.items() if k != "num_inference_steps"}
    assert torch.equal(run.sample(model, **start, grid=grid), whole)
    assert torch.equal(list(run.stream(model, **start, grid=grid))[-1].x, whole)
    assert run.plan(grid=grid) == run.plan(STEPS)
    assert run.plan(grid=grid) is run.plan(grid=grid)
    first, second = grid.split(2)
    middle = run.sample(model, **start, grid=first)
    joined = run.sample(model, initial_sample=middle, dtype=torch.float64, grid=second)
    assert torch.equal(joined, whole)
    sigmas = [14.0, 3.0, 0.5, 0.1]
    given = TimeGrid.from_sigmas(run.scheduler, sigmas)
    plan = run.plan(grid=given)
    assert [s / a for a, s in zip(plan.alpha, plan.sigma, strict=True)] == pytest.approx([*sigmas, 0.0])
    torch.testing.assert_close(run.sample(model, **start, grid=given), run.sample(model, **start, plan=plan))


def test_a_grid_may_start_in_the_middle():
    run = pipeline("epsilon")
    grid = run.grid(7, start=400.0)
    assert (grid.steps, grid.levels[0].t) == (7, 400.0)
    model = Counting(mixture(run))
    run.sample(model, initial_sample=START, grid=grid)
    assert len(model.counts) == 7


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"timesteps": [900, 500]}, "grid"),
        ({"plan": pipeline().plan(3)}, "grid"),
        ({"grid": [900, 500]}, "grid"),
        ({"grid": pipeline(schedule="cosine").grid(3)}, "grid"),
        ({"grid": pipeline().grid(3, start=100.0)}, "timestep_spacing"),  # from pure noise
    ],
)
def test_grids_that_cannot_be_are_refused(options, where):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(never, SHAPE, **{"grid": pipeline().grid(3), **options})
    assert raised.value.where == where


def test_clipping_and_thresholding_still_act_behind_guidance():
    run = pipeline("epsilon", clip_sample=True, clip_sample_range=0.3)
    model = mixture(run)
    got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(4.0), DynamicThreshold(0.8)])
    assert got.abs().max() <= 0.3

    def expected(x, t):
        value = model.denoise(x, t) + 4.0 * (model.denoise(x, t, class_labels=LABELS) - model.denoise(x, t))
        return dynamic_threshold(value, ratio=0.8)

    clipped = pipeline("sample", clip_sample=True, clip_sample_range=0.3)
    torch.testing.assert_close(got, clipped.sample(expected, SHAPE, **KINDS))


class TwoNoises(BaseSampler):
    """Two noises a step: the second gets a row of its own, which asks no model."""

    stochastic = True

    def write(self, build, grid):
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            rest, half = after.sigma * math.sqrt(0.5), after.sigma * 0.5
            noises = half * build.noise(i) + half * build.noise(i) if after.sigma else 0.0 * build.x
            build.advance(after.alpha * p.sample + rest * p.epsilon + noises)


def test_rows_that_ask_no_model_have_no_evaluations_and_go_through_a_given_plan():
    run = pipeline("epsilon", method=TwoNoises)
    plan, model = run.plan(STEPS), Counting(mixture(run))
    assert plan.nfe == STEPS < len(plan)
    result = run.sample(model, SHAPE, seed=3, dtype=torch.float64, plan=plan, **CONDITION, return_result=True)
    assert torch.equal(result.samples, run.sample(model, SHAPE, **KINDS, **CONDITION))
    assert result.evaluations == sum(evaluations(ClassifierFree(2.0), plan)) == 2 * STEPS
    assert 0 in evaluations(ClassifierFree(2.0), plan)
