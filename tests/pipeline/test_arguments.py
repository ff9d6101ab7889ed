"""Every argument of a run with values that make no sense: a result, or our own error before the first call."""

from __future__ import annotations

import inspect
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseSampler,
    ConfigurationError,
    DeviceError,
    DiffusionPipeline,
    ModelOutputError,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    OutOfMemoryError,
    SamplerFactory,
)
from noise_scheduler_sampling_system.guidance import ClassifierFree, Composed
from noise_scheduler_sampling_system.models import DigitsModel
from noise_scheduler_sampling_system.support.errors import shown

PIPELINE = DiffusionPipeline(NoiseSchedulerConfig(), "ddpm")
DETERMINISTIC = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")


class Model:
    """A model that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t, c=None):
        self.calls += 1
        return 0.5 * x


def two_by_three(**kind: Any) -> torch.Tensor:
    return torch.zeros(2, 3, **kind)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of PyTorch about these kinds of tensors
    CSR = two_by_three().to_sparse_csr()
    QUANTISED = torch.quantize_per_tensor(two_by_three(), 0.1, 0, torch.qint8)

VALUES: dict[str, Any] = {
    "none": None, "true": True, "false": False, "zero": 0, "one": 1, "minus one": -1, "float": 2.5, "nan": float("nan"),
    "inf": float("inf"), "1e300": 1e300, "10**19": 10**19, "10**400": 10**400, "10**5000": 10**5000, "complex": 1j,
    "text": "text", "empty text": "", "bytes": b"ab", "list": [1, 2], "empty list": [], "texts": ["a", "b"],
    "ragged": [[1, 2], [3]], "tuple": (2, 3), "dict": {"a": 1}, "empty dict": {}, "keys": {1: 2}, "x": {"x": 1},
    "t": {"t": 1}, "text array": {"c": np.array(["a", "b"])}, "objects": {"c": np.array([{}, {}], dtype=object)},
    "sparse c": {"c": two_by_three().to_sparse()}, "meta c": {"c": two_by_three(device="meta")},
    "huge c": {"c": [10**30, 1]}, "array": np.zeros((2, 3)), "whole array": np.array([1, 2]),
    "np float": np.float32(1.5), "np int": np.int64(3), "np bool": np.bool_(True), "np text": np.array(["a", "b"]),
    "np complex": np.array([1j, 2]), "np view": np.zeros((2, 3))[::-1], "np nan": np.full((2, 3), np.nan),
    "np dates": np.zeros((2, 3), dtype="datetime64[s]"), "np swapped": np.zeros((2, 3), dtype=">f4"),
    "np long": np.zeros((2, 3), dtype=np.longdouble), "tensor": two_by_three(), "0-d": torch.tensor(1.5),
    "bools": two_by_three(dtype=torch.bool), "ints": two_by_three(dtype=torch.int64),
    "complex tensor": two_by_three(dtype=torch.complex64), "sparse": two_by_three().to_sparse(),
    "csr": CSR, "meta": two_by_three(device="meta"),
    "float8": two_by_three().to(torch.float8_e4m3fn),
    "quantised": QUANTISED,
    "1e300 tensor": torch.full((2, 3), 1e300, dtype=torch.float64), "generator": torch.Generator(), "f()": lambda: 0,
    "f(a)": lambda a: 0, "f(a, b, c)": lambda a, b, c: 0, "f(a, b, c, d)": lambda a, b, c, d: 0, "class": int,
    "object": object(), "set": {1, 2}, "range": range(2), "meta device": "meta", "torch meta": torch.device("meta"),
    "torch float8": torch.float8_e4m3fn, "torch complex": torch.complex64, "torch int": torch.int8,
    "(inf, 1)": (float("inf"), 1), "(nan, 1)": (float("nan"), 1), "(10**12, 1)": (10**12, 1),
    "(10**30, 1)": (10**30, 1), "(-1, 2)": (-1, 2), "(True, 2)": (True, 2),
}  # fmt: skip
#: What a wrong value needs beside it to be looked at.
BESIDE: dict[str, dict[str, Any]] = {
    "guidance_scale": {"condition": {"c": torch.ones(2, 1)}},
    "null_condition": {"condition": {"c": torch.ones(2, 1)}},
    "condition": {"guidance_scale": 1.0, "classifier_free_guidance": False},
    "initial_sample": {"timesteps": [500, 100]},
}


def arguments_of(function: str) -> list[str]:
    parameters = inspect.signature(getattr(DiffusionPipeline, function)).parameters
    return [name for name in parameters if name not in ("self", "unknown")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "name"), [(f, name) for f in ("sample", "stream") for name in arguments_of(f)]
)  # fmt: skip
def test_any_value_of_any_argument(function, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a profile's trace is a file of any name
    for label, value in VALUES.items():
        if function == "sample" and name == "profile" and isinstance(value, str):
            continue  # writes a trace, which takes seconds
        model = Model()
        run: dict[str, Any] = {"model": model, "shape": (2, 3), "num_inference_steps": 2, "seed": 0}
        if name == "generator":
            del run["seed"]
        run |= BESIDE.get(name, {}) | {name: value}
        if name == "resume" and value is not None:
            run = {"model": model, "resume": value}
        refused = outcome = None
        try:
            result = getattr(PIPELINE, function)(**run)
            outcome = list(result)[-1].x if function == "stream" else getattr(result, "samples", result)
        except NoiseSamplingError as refusal:
            refused = refusal
        except Exception as error:
            raise AssertionError(f"{name} = {label}: {type(error).__name__}: {error}") from error
        if refused is None:
            assert len(outcome) >= 1, label
        else:
            assert model.calls == 0, (label, refused)
            assert refused.what, label
            assert refused.where, label
            assert refused.suggestion, label
            assert len(str(refused)) < 1500, label


OWN = [name for name in arguments_of("generate") if name != "options"]
PASSED_ON = [
    "seed", "generator", "initial_noise", "initial_sample", "timesteps", "grid", "plan", "dtype", "noise", "callback",
    "progress", "early_stopping", "max_batch_size", "differentiable", "return_result", "classifier_free_guidance",
]  # fmt: skip


@pytest.fixture(scope="module")
def borrowed():
    """Pipelines of diffusers that are conditioned on text and on nothing."""
    tiny = pytest.importorskip("tiny_pipelines")
    return {kind: DiffusionPipeline.from_diffusers(tiny.build(kind)) for kind in ("sd", "ddpm")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in OWN for kind in ("sd", "ddpm")] + [(name, "ddpm") for name in PASSED_ON],
)
def test_any_value_of_any_argument_of_generate(name, kind, borrowed):
    import tiny_pipelines as tiny

    pipeline, calls = borrowed[kind], []
    hook = pipeline.backbone.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    for label, value in VALUES.items():
        run: dict[str, Any] = {
            "num_inference_steps": 2,
            "output_type": "latent",
            "height": tiny.SIDE,
            "width": tiny.SIDE,
            "seed": 0,
        }
        run |= {"prompt": "a"} if kind == "sd" else {}
        if name in ("strength", "mask_image"):
            run["image"] = tiny.image()
        if name == "generator":
            del run["seed"]
        calls.clear()
        refused = None
        try:
            pipeline.generate(**(run | {name: value}))
        except NoiseSamplingError as refusal:
            refused = refusal
        except Exception as error:
            raise AssertionError(f"{name} = {label}: {type(error).__name__}: {error}") from error
        assert refused is None or (refused.where and refused.suggestion and not calls), (label, refused)
    hook.remove()


@pytest.mark.parametrize("name", ["shape", "num_inference_steps", "dtype", "noise", "device", "condition", "guidance"])
def test_any_value_beside_a_state_to_resume(name):
    state = next(iter(DETERMINISTIC.stream(Model(), (2, 3), 3, seed=0))).state
    for label, value in VALUES.items():
        refused = None
        try:
            list(DETERMINISTIC.stream(Model(), resume=state, **{name: value}))
        except NoiseSamplingError as refusal:
            refused = refusal
        except Exception as error:
            raise AssertionError(f"{name} = {label}: {type(error).__name__}: {error}") from error
        assert refused is None or refused.where


# ------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("argument", ["initial_noise", "initial_sample"])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: tuple(map(tuple, x.tolist())),
        lambda x: [*x],
        lambda x: [*x.numpy()],
        lambda x: x.numpy().astype(">f8"),
        lambda x: x.numpy()[::-1][::-1],
        lambda x: np.asfortranarray(x.numpy()),
        lambda x: x.double(),
    ],
)
def test_starts_from_arrays_and_lists(argument, make):
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    run = {"timesteps": [500, 100]}
    expected = DETERMINISTIC.sample(Model(), **run, **{argument: x})
    torch.testing.assert_close(DETERMINISTIC.sample(Model(), **run, **{argument: make(x)}), expected)


def test_a_read_only_array_is_neither_written_nor_warned_of(recwarn):
    x = np.ones((2, 3), dtype=np.float32)
    x.setflags(write=False)
    DETERMINISTIC.sample(Model(), initial_noise=x, num_inference_steps=2, condition={"c": x})
    assert not recwarn.list
    assert (x == 1).all()


def test_values_beyond_the_type_of_the_run_are_refused():
    x = torch.full((2, 3), 1e6)
    with pytest.raises(ConfigurationError, match=r"beyond torch\.float16"):
        DETERMINISTIC.sample(Model(), initial_noise=x, dtype=torch.float16, num_inference_steps=2)


# ------------------------------------------------------------------------------- size


@pytest.mark.parametrize("shape", [(10**12, 1), (1, 10**12), (10**6, 10**6, 10**6), (10**30, 1)])
@pytest.mark.parametrize("function", ["sample", "stream"])
def test_what_exceeds_the_memory_is_refused_before_anything_is_made(shape, function):
    model = Model()
    with pytest.raises(OutOfMemoryError) as caught:
        getattr(PIPELINE, function)(model, shape, max_batch_size=4) if function == "sample" else list(
            PIPELINE.stream(model, shape)
        )
    assert caught.value.where == "shape"
    assert model.calls == 0


# ------------------------------------------------------------------------------- models


def takes_no_argument():
    return torch.zeros(2, 3)


def takes_x(x):
    return x


def demands_c(x, t, c):
    return x


def in_order(x, t, /):
    return x


@pytest.mark.parametrize(
    ("model", "run", "where"),
    [
        (takes_no_argument, {}, "model"),
        (takes_x, {}, "model"),
        (lambda *, x, t: x, {}, "model"),
        (demands_c, {}, "condition"),
        (demands_c, {"condition": {"c": torch.ones(2), "d": torch.ones(2)}}, "condition['d']"),
        (in_order, {"condition": {"x": torch.ones(2)}}, "condition['x']"),
        (torch.nn.Linear(3, 3), {}, "model"),
        (demands_c, {"condition": {"x": 1.0, "c": 1.0}}, "condition['x']"),
        (lambda sample, timestep: sample, {"condition": {"timestep": 1.0}}, "condition['timestep']"),
        (lambda sample, c, timestep: sample, {"condition": {"c": 1.0, "timestep": 2}}, "condition['timestep']"),
        (
            demands_c,
            {"condition": {"c": torch.ones(2)}, "null_condition": {"d": torch.ones(2)}},
            "null_condition['d']",
        ),
    ],
)
def test_models_that_cannot_be_called_so(model, run, where):
    run = {"classifier_free_guidance": "null_condition" in run, **run}
    with pytest.raises(ConfigurationError) as caught:
        DETERMINISTIC.sample(model, (2, 3), 2, **run)
    assert caught.value.where == where


class Hooked(torch.nn.Module):
    """Called with a keyword that its forward does not know; a hook takes it away."""

    def __init__(self):
        super().__init__()
        self.register_forward_pre_hook(lambda module, args, kwargs: (args, {}), with_kwargs=True)

    def forward(self, x, t):
        return x


def generic(*args, **kwargs):
    return args[0]


@pytest.mark.parametrize(
    "model",
    [generic, in_order, torch.no_grad()(in_order), Hooked(), np.add],
    ids=["generic", "positional", "decorated", "hooked", "no signature"],
)
def test_models_that_can_are_not_refused(model):
    condition = {"c": torch.ones(2)} if model is generic or isinstance(model, Hooked) else None
    try:
        DETERMINISTIC.sample(model, (2, 3), 2, condition=condition, classifier_free_guidance=False)
    except ConfigurationError:
        pytest.fail("refused")
    except Exception:  # what Python cannot tell beforehand
        assert model is np.add


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.to(torch.complex64), lambda x: x.to_sparse(), lambda x: x.to("meta"), lambda x: x > 0,
        lambda x: x.long(), lambda x: x.to(torch.float8_e4m3fn), lambda x: x.numpy(), lambda x: None, lambda x: [],
        lambda x: {"prediction": x}, lambda x: "text", lambda x: x[:1], lambda x: torch.tensor(1.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("guided", [False, True])
def test_answers_that_are_no_prediction(answer, guided):
    run: dict[str, Any] = {"condition": {"c": torch.ones(2, 1)}} if guided else {}
    for method in ("ddim", "dpmpp_2m"):
        with pytest.raises(ModelOutputError) as caught:
            DiffusionPipeline(None, method).sample(lambda x, t, c=None: answer(x), (2, 3), 3, **run)
        assert caught.value.suggestion


def test_a_model_without_values_is_refused():
    with torch.device("meta"):
        model = torch.nn.Linear(3, 3)
    with pytest.raises(DeviceError, match="meta device"):
        DETERMINISTIC.sample(model, (2, 3), 2)


@pytest.mark.parametrize("scale", [1e300, 1e39, -1e300])
@pytest.mark.parametrize(
    "guidance",
    [
        lambda scale: {"guidance_scale": scale},
        lambda scale: {"guidance": ClassifierFree(scale)},
        lambda scale: {"guidance": ClassifierFree(lambda moment: scale)},
        lambda scale: {"guidance": Composed([({"c": torch.ones(2, 1)}, scale)])},
    ],
)
def test_scales_beyond_the_type_of_the_run_are_refused(guidance, scale):
    model = Model()
    with pytest.raises(ConfigurationError, match=r"beyond torch\.float32"):
        DETERMINISTIC.sample(model, (2, 3), 2, condition={"c": torch.ones(2, 1)}, **guidance(scale))
    assert model.calls == 0


# ------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "make",
    [
        lambda: "a" * 10**7, lambda: b"a" * 10**7, lambda: [0.0] * 10**5, lambda: 10**5000, lambda: torch.zeros(10**6),
        lambda: np.zeros(10**6), lambda: {"a": "b" * 10**6},
    ],
)  # fmt: skip
def test_values_are_shown_in_short(make):
    assert 0 < len(shown(make())) < 200


def test_what_cannot_be_shown_is_named():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert "Odd" in shown(Odd())


# ------------------------------------------------------------------------------- threads


class Registered(BaseSampler):
    def step(self, model_output, timestep, sample):
        return sample - 0.01 * model_output


def test_a_system_that_other_threads_change_meanwhile():
    system = AdvancedDiffusionSystem()
    for i in range(30):
        system.create_pipeline(f"kept {i}")

    def change(thread: int) -> None:
        for i in range(150):
            name = f"{thread} {i}"
            system.create_pipeline(name)
            SamplerFactory.register(f"sampler {name}", Registered)
            system.remove_pipeline(name)

    def compare(_: int) -> None:
        for _ in range(8):
            results = system.compare_schedulers((1, 2), 2, model=Model(), seed=0)
            assert len(results) >= 30
            system.list_pipelines()
            with pytest.raises(ConfigurationError, match="there is no"):
                DiffusionPipeline(None, "samplr nobody has")

    with ThreadPoolExecutor(6) as pool:
        for done in [*[pool.submit(change, i) for i in range(3)], *[pool.submit(compare, i) for i in range(3)]]:
            done.result()
    assert len(system.list_pipelines()) == 30
    assert len(pickle.loads(pickle.dumps(system)).list_pipelines()) == 30


def test_of_many_threads_one_removes():
    system = AdvancedDiffusionSystem()
    system.create_pipeline("a")

    def remove(_: int) -> bool:
        try:
            system.remove_pipeline("a")
        except ConfigurationError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(remove, range(64))) == 1


@pytest.mark.parametrize("name", [None, 3, [], {}, "", "b"])
def test_names_that_no_pipeline_has(name):
    system = AdvancedDiffusionSystem()
    system.create_pipeline("a")
    for act in (system.get_pipeline, system.remove_pipeline):
        with pytest.raises(ConfigurationError, match="no pipeline has the name"):
            act(name)


def test_the_default_model_takes_no_notice_of_itself():
    """Its own conditions go through the same checks."""
    model = DigitsModel(DETERMINISTIC.scheduler)
    labels = torch.tensor([1, 2])
    samples = DETERMINISTIC.sample(model, (2, 1, 8, 8), 2, condition={"class_labels": labels}, seed=0)
    assert samples.shape == (2, 1, 8, 8)
