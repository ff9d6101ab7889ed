"""What a run hands out cannot change it; callbacks end runs; exceptions of users come through as they are."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, ModelOutputError, SamplingStep
from noise_scheduler_sampling_system.analysis.likelihood import log_likelihood
from noise_scheduler_sampling_system.guidance import AdaptiveProjected
from noise_scheduler_sampling_system.samplers.base import BaseSampler

SHAPE = (2, 1, 4, 4)
METHODS = ["ddim", "ddpm", "heun", "dpmpp_2m", "dpmpp_3m_sde", "pndm", "adaptive"]


class Stepping(BaseSampler):
    """A sampler that has only ``step``."""

    def step(self, model_output, timestep, sample, next_timestep=None):
        return 0.8 * sample - 0.1 * model_output


def model(x, t, c=None):
    return torch.tanh(x) + (0.0 if c is None else c.mean())


def momentum() -> dict[str, Any]:
    """A run whose guidance remembers something."""
    return {"condition": {"c": torch.ones(2, 3)}, "guidance": AdaptiveProjected(3.0, momentum=-0.5)}


# ------------------------------------------------------------------------------- what is handed out

PLACES = {
    "x": lambda step: [step.x],
    "state.x": lambda step: [step.state.state.x],
    "history": lambda step: list(step.state.state.history.values()),
    "memory": lambda step: list(step.state.memory.values()),
    "prediction": lambda step: [step.pred_original_sample],
}
WAYS = {
    "zero_": lambda tensor: tensor.zero_(),
    "data": lambda tensor: tensor.data.zero_(),
    "data =": lambda tensor: setattr(tensor, "data", torch.zeros(1)),
    "numpy": lambda tensor: tensor.numpy().fill(0.0),
    "view": lambda tensor: tensor[0].add_(1.0),
    "detached": lambda tensor: tensor.detach().mul_(3.0),
}


def refused(run: Any, act: str) -> Any:
    """What a run comes to; None where a change in place was refused."""
    try:
        return run(act)
    except ConfigurationError as refusal:
        if "in-place" not in refusal.what:
            raise
        return None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", [*METHODS, Stepping])
def test_no_change_of_what_is_handed_out_changes_the_run(method, place, way):
    """It is refused where PyTorch counts it, and without effect where not."""
    pipeline, touched = DiffusionPipeline(None, method), 0

    def change(step: SamplingStep) -> None:
        nonlocal touched
        for tensor in PLACES[place](step):
            WAYS[way](tensor)
            touched += 1

    def run(act: str) -> Any:
        given = {**momentum(), "seed": 0}
        if act == "plain":
            return pipeline.sample(model, SHAPE, 6, **given)
        if act == "callback":
            return pipeline.sample(model, SHAPE, 6, callback=change, **given)
        for step in pipeline.stream(model, SHAPE, 6, **given):
            last = step.x.clone()
            change(step)
        return last

    expected = run("plain")
    for act in ("callback", "stream"):
        result = refused(run, act)
        if result is None:
            assert way in ("zero_", "view", "detached")
            assert place != "prediction"  # which is made anew at every look
        else:
            assert torch.equal(result, expected)
    assert touched or place in ("history", "memory")


@pytest.mark.parametrize("place", ["x", "state.x"])
def test_a_change_that_is_counted_is_refused(place):
    with pytest.raises(ConfigurationError, match="in-place") as caught:
        DiffusionPipeline().sample(model, SHAPE, 4, seed=0, callback=lambda step: PLACES[place](step)[0].zero_())
    assert caught.value.where == "callback"
    steps = DiffusionPipeline().stream(model, SHAPE, 4, seed=0)
    PLACES[place](next(steps))[0].zero_()
    with pytest.raises(ConfigurationError, match="step 0"):
        next(steps)


def test_the_last_step_of_a_stream_is_the_callers():
    for step in DiffusionPipeline().stream(model, SHAPE, 2, seed=0):
        if step.index == 1:
            step.x.clamp_(0, 1)
    assert step.x.min() == 0.0


def test_what_was_handed_out_stays_as_it_was():
    pipeline, seen, copies = DiffusionPipeline(None, "dpmpp_2m"), [], []

    def look(step: SamplingStep) -> None:
        seen.append(step)
        copies.append((step.x.clone(), {j: y.clone() for j, y in step.state.state.history.items()}))

    samples = pipeline.sample(model, SHAPE, 6, seed=0, callback=look)
    samples.zero_()
    for step, (x, history) in zip(seen, copies, strict=True):
        assert torch.equal(step.x, x)
        assert step.state.state.history.keys() == history.keys()
        assert all(torch.equal(step.state.state.history[j], y) for j, y in history.items())


def test_a_state_that_is_resumed_may_be_changed_meanwhile():
    pipeline = DiffusionPipeline(None, "dpmpp_2m")
    expected = pipeline.sample(model, SHAPE, 6, seed=0)
    step = next(iter(pipeline.stream(model, SHAPE, 6, seed=0)))
    rest = pipeline.stream(model, resume=step.state)
    next(rest)
    step.x.zero_()
    for tensor in step.state.state.history.values():
        tensor.zero_()
    assert torch.equal(list(rest)[-1].x, expected)


def test_in_inference_mode_too():
    with torch.inference_mode():
        expected = DiffusionPipeline().sample(model, SHAPE, 4, seed=0)
        changed = DiffusionPipeline().sample(model, SHAPE, 4, seed=0, callback=lambda step: step.x.zero_())
    assert torch.equal(changed, expected)


def test_gradients_go_through_what_is_handed_out():
    x, seen = torch.randn(SHAPE, requires_grad=True), []
    DiffusionPipeline().sample(model, initial_noise=x, num_inference_steps=3, differentiable=True, callback=seen.append)
    assert torch.autograd.grad(seen[1].x.sum(), x)[0].abs().sum() > 0


def test_a_look_at_a_step_costs_one_copy():
    """Of the state; the history is copied where it is looked at."""
    shape = (1, 4, 256, 256)
    pipeline, clones, clone = DiffusionPipeline(None, "dpmpp_3m"), [], torch.Tensor.clone
    torch.Tensor.clone = lambda self, *a, **k: clones.append(self.shape) or clone(self, *a, **k)
    try:
        for step in pipeline.stream(lambda x, t: 0.5 * x, shape, 5, seed=0):
            assert step.x.shape == shape
        streamed, clones[:] = len(clones), []
        pipeline.sample(lambda x, t: 0.5 * x, shape, 5, seed=0)
    finally:
        torch.Tensor.clone = clone
    # one of the output, which is kept to be looked at, one of the state; the last call's, to have the last step again
    assert streamed <= 2 * 5 + 2
    assert not clones


# ------------------------------------------------------------------------------- ending a run


def ends_at(index: int, how: str) -> Any:
    def callback(step: SamplingStep) -> object:
        if step.index == index:
            if how == "raise":
                raise StopIteration
            return True
        return None if how == "raise" else False

    return callback


@pytest.mark.parametrize("how", ["return", "raise"])
@pytest.mark.parametrize("method", METHODS)
def test_a_callback_ends_the_run_and_the_sample_is_kept(method, how):
    pipeline, calls = DiffusionPipeline(None, method), 0

    def counting(x, t):
        nonlocal calls
        calls += 1
        return model(x, t)

    steps = list(pipeline.stream(counting, SHAPE, 6, seed=0))
    calls = 0
    result = pipeline.sample(counting, SHAPE, 6, seed=0, callback=ends_at(2, how), return_result=True)
    assert torch.equal(result.samples, steps[2].x)
    assert result.steps == 3
    assert result.nfe == calls == steps[2].nfe
    assert result.stopped_early
    if method != "adaptive":
        assert result.calls_saved == steps[-1].nfe - steps[2].nfe > 0
    last = steps[-1].index
    whole = pipeline.sample(counting, SHAPE, 6, seed=0, callback=ends_at(last, how), return_result=True)
    assert torch.equal(whole.samples, steps[-1].x)
    assert whole.calls_saved == 0


def test_each_part_of_a_batch_ends_for_itself():
    pipeline = DiffusionPipeline()
    steps = list(pipeline.stream(model, SHAPE, 6, seed=0))
    result = pipeline.sample(
        model, SHAPE, 6, seed=0, max_batch_size=1, callback=lambda step: step.first_sample == 0 and step.index == 2
    )
    torch.testing.assert_close(result[0], steps[2].x[0])
    torch.testing.assert_close(result[1], steps[-1].x[1])


@pytest.mark.parametrize("answer", [None, False, 1, "yes", [], {"latents": 3}, torch.tensor(True)])
def test_only_true_ends_a_run(answer):
    seen = []
    DiffusionPipeline().sample(model, SHAPE, 3, seed=0, callback=lambda step: seen.append(step) or answer)
    assert len(seen) == 3


# ------------------------------------------------------------------------------- callbacks of other libraries


def old_diffusers(step, timestep, latents):
    return None


def diffusers(pipe, step, timestep, callback_kwargs):
    return callback_kwargs


class OfDiffusers:
    """As its PipelineCallback."""

    def __call__(self, pipeline, step_index, timestep, callback_kwargs):
        return callback_kwargs


async def coroutine(step):
    return None


def generator(step):
    yield


@pytest.mark.parametrize(
    "callback",
    [old_diffusers, diffusers, OfDiffusers(), OfDiffusers, coroutine, generator, lambda: None, lambda *, step: None, 5,
     [print], "print", list],
)  # fmt: skip
def test_callbacks_that_cannot_be_called_so_are_refused_before_the_first_call(callback):
    def never(x, t):
        raise AssertionError

    with pytest.raises(ConfigurationError) as caught:
        DiffusionPipeline().sample(never, SHAPE, 3, seed=0, callback=callback)
    assert caught.value.where == "callback"


def test_callbacks_that_can():
    seen: list[Any] = []

    class Kept:
        def append(self, step, extra=3):
            seen.append(step)

        def __call__(self, *args, **kwargs):
            seen.append(args[0])

    for callback in (seen.append, Kept(), Kept().append, lambda step, *, more=1: seen.append(step), print):
        DiffusionPipeline().sample(model, (1, 2), 2, seed=0, callback=callback)
    assert len(seen) == 8


# ------------------------------------------------------------------------------- exceptions of users


class OwnError(Exception):
    """Of somebody's model."""

    def __init__(self, number: int, *, text: str) -> None:
        super().__init__(number, text)
        self.number, self.text = number, text


ERRORS = [
    OwnError(3, text="mine"), ValueError("mine"), StopIteration(7), KeyError("mine"), RuntimeError("mine"),
    ArithmeticError("mine"), AssertionError("mine"), AttributeError("mine"), StopAsyncIteration("mine"),
    RecursionError("mine"), TypeError("mine"), SystemExit(4), KeyboardInterrupt(), GeneratorExit("mine"),
]  # fmt: skip


def raising(error: BaseException, at: int) -> Any:
    calls = 0

    def raises(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return model(*args) if len(args) == 2 else None

    return raises


def notes_of(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", []))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_an_exception_of_the_model_comes_through_as_it_is(method, error):
    cause = OSError("below")
    error.__cause__ = cause
    with pytest.raises(type(error)) as caught:
        DiffusionPipeline(None, method).sample(raising(error, 3), SHAPE, 5, seed=0)
    assert caught.value is error
    assert caught.value.__cause__ is cause
    if sys.version_info >= (3, 11) and isinstance(error, Exception):
        assert "raised by the model at step" in notes_of(error)
        assert "t = " in notes_of(error)
        assert "model call" in notes_of(error)


@pytest.mark.parametrize(
    "error", [e for e in ERRORS if not isinstance(e, StopIteration)], ids=lambda error: type(error).__name__
)
def test_an_exception_of_the_callback_comes_through_as_it_is(error):
    with pytest.raises(type(error)) as caught:
        DiffusionPipeline().sample(model, SHAPE, 5, seed=0, callback=raising(error, 2))
    assert caught.value is error
    if sys.version_info >= (3, 11) and isinstance(error, Exception):
        assert "raised by the callback after step 1" in notes_of(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_in_a_stream(error):
    """As it is; but StopIteration would say that the run is done."""
    expected = ModelOutputError if isinstance(error, StopIteration) else type(error)
    steps = DiffusionPipeline().stream(raising(error, 3), SHAPE, 5, seed=0)
    next(steps)
    next(steps)
    with pytest.raises(expected) as caught:
        next(steps)
    assert error in (caught.value, caught.value.__cause__)


def test_an_exception_under_guidance_says_where_too():
    error = OwnError(1, text="mine")
    condition = {"c": torch.ones(2, 3)}

    def fails(x, t, c):
        raise error

    for run in ({}, {"guidance": AdaptiveProjected(3.0)}):
        with pytest.raises(OwnError) as caught:
            DiffusionPipeline().sample(fails, SHAPE, 5, seed=0, condition=condition, **run)
        assert caught.value is error
    if sys.version_info >= (3, 11):
        assert len(error.__notes__) == 1  # the same place, once


def test_an_exception_in_what_walks_row_by_row():
    error = StopIteration()

    def fails(x, t):
        raise error

    with pytest.raises(StopIteration) as caught:
        log_likelihood(DiffusionPipeline(), fails, torch.zeros(2, 3))
    assert caught.value is error


def test_memory_that_ran_out_in_the_model_still_halves_the_batch():
    sizes = []

    def hungry(x, t):
        sizes.append(len(x))
        if len(x) > 1:
            raise RuntimeError("out of memory")
        return x

    DiffusionPipeline().sample(hungry, (4, 2), 2, seed=0)
    assert sizes == [4, 2, 1, 1, 1, 1, 1, 1, 1, 1]
