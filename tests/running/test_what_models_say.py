"""What a model says of itself, or shows: what it predicts, and whether it is the model that a run began with."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging

import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    RunState,
    guidance,
    models,
)
from noise_scheduler_sampling_system.running.model_fingerprint import fingerprint
from noise_scheduler_sampling_system.running.output_check import Look

KINDS = ["epsilon", "sample", "v_prediction", "flow_prediction"]
EMBEDDED = {
    "digits": models.DigitsModel,
    "gaussian": lambda path: models.GaussianModel(path, 0.3, 0.2),
    "mixture": lambda path: models.GaussianMixtureModel(path, torch.eye(2), 0.1),
    "data": lambda path: models.KernelDensityModel(path, torch.eye(2), 0.1),
}


def predicting(kind: str) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(prediction_type=kind, timestep_spacing="trailing"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_follow_the_path(name, kind):
    """All four agree on the clean sample: the same model, whatever the config says that it predicts."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type=kind))
    model = EMBEDDED[name](pipeline.scheduler)
    assert model.prediction_type == kind
    shape = (2, 1, 8, 8) if name == "digits" else (2, 2)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    run = {"initial_noise": noise, "num_inference_steps": 5, "dtype": torch.float64}
    plain = DiffusionPipeline()
    torch.testing.assert_close(pipeline.sample(model, **run), plain.sample(EMBEDDED[name](plain.scheduler), **run))


class Stating:
    """A model of the user's own that says what it predicts."""

    def __init__(self, prediction_type: object) -> None:
        self.prediction_type = prediction_type

    def __call__(self, x, t):
        return x

    forward = __call__


class Network(torch.nn.Module):
    def forward(self, x, t):
        return x * 0.5


def _wraps(model):
    module = Network().eval()
    module.prediction_type = model.prediction_type
    return {
        "itself": model, "bound": model.forward, "partial": functools.partial(model), "module": module,
        "compiled": torch.compile(module, backend="eager"), "parallel": torch.nn.DataParallel(module),
    }  # fmt: skip


@pytest.mark.parametrize("says", [*KINDS, "v", "eps", "x0"])
@pytest.mark.parametrize("configured", KINDS)
def test_a_model_that_says_what_it_predicts_is_compared(configured, says):
    pipeline = predicting(configured)
    same = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}.get(says, says) == configured
    for model in _wraps(Stating(says)).values():
        for run in (pipeline.sample, pipeline.stream):
            if same:
                run(model, (2, 2), 2, seed=0)
                continue
            with pytest.raises(ConfigurationError, match=f"says '{configured}'") as raised:
                run(model, (2, 2), 2, seed=0)
            assert raised.value.where == "prediction_type"
    for silent in ("whatever", None, 3):  # says nothing that could be compared
        pipeline.sample(Stating(silent), (2, 2), 2, seed=0)


@pytest.mark.parametrize("configured", KINDS)
def test_embedded_networks_are_compared(configured):
    pipeline = predicting(configured)
    for make, says in ((models.mnist_unet, "v_prediction"), (lambda: models.EDMPreconditioned(torch.tanh), "sample")):
        if says != configured:
            with pytest.raises(ConfigurationError, match="prediction_type"):
                pipeline.sample(make(), (1, 1, 28, 28), 2)


def test_a_weaker_model_is_taken_at_its_word():
    """Autoguidance by a model that predicts another quantity, and says so."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"))
    model = models.DigitsModel(pipeline.scheduler)
    run = {"shape": (1, 1, 8, 8), "num_inference_steps": 4, "seed": 0, "dtype": torch.float64}
    same, other = (
        guidance.AutoGuidance(models.DigitsModel(pipeline.scheduler, kind, bandwidth=0.3), 1.5)
        for kind in ("v_prediction", "epsilon")
    )
    wanted = pipeline.sample(model, guidance=same, **run)
    torch.testing.assert_close(pipeline.sample(model, guidance=other, **run), wanted)
    with pytest.raises(ConfigurationError, match="AutoGuidance"):
        guidance.AutoGuidance(models.DigitsModel(pipeline.scheduler, "epsilon"), 1.5, prediction_type="sample")


@pytest.mark.parametrize("saved", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("how", ["subfolder", "folder", "pipeline"])
def test_a_network_with_a_scheduler_beside_it_is_compared(tmp_path, saved, how):
    """As pipelines of diffusers are saved: unet/ and scheduler/ in one folder."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(prediction_type=saved if saved != "flow" else "epsilon")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler() if saved == "flow" else scheduler
    tiny = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4,), norm_num_groups=2,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    diffusers.DDIMPipeline(tiny, diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path / "scheduler")
    loaders = {
        "subfolder": lambda: diffusers.UNet2DModel.from_pretrained(tmp_path, subfolder="unet"),
        "folder": lambda: diffusers.UNet2DModel.from_pretrained(tmp_path / "unet"),
        "pipeline": lambda: diffusers.DDIMPipeline.from_pretrained(tmp_path).unet,
    }
    if how == "pipeline" and saved == "flow":
        pytest.skip("no such pipeline")
    model, says = loaders[how]().eval(), {"flow": "flow_prediction"}.get(saved, saved)
    for configured in KINDS:
        pipeline = predicting(configured)
        if configured == says:
            pipeline.sample(model, (1, 1, 8, 8), 1, seed=0)
        else:
            with pytest.raises(ConfigurationError, match="the model predicts") as raised:
                pipeline.sample(model, (1, 1, 8, 8), 1, seed=0)
            assert raised.value.where == "prediction_type"
    if how == "pipeline":  # the scheduler at hand counts, not the one in the file
        pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path)
        pipe.scheduler = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False)
        images = DiffusionPipeline.from_diffusers(pipe).generate(num_inference_steps=10, seed=0, output_type="pt")
        assert images.shape == (1, 1, 8, 8)
    model.prediction_type = "sample"  # the user's word
    predicting("sample").sample(model, (1, 1, 8, 8), 1, seed=0)


# ------------------------------------------------------------------------------- the model of a stopped run


def net(seed: int = 0, width: int = 4) -> torch.nn.Module:
    torch.manual_seed(seed)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))

        def forward(self, x, t):
            return self.layers(x)

    return Net().eval()


def tuned(model: torch.nn.Module) -> torch.nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[2].bias += 1e-3
    return other


def scaled_by(scale: float):
    return lambda x, t: scale * x


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale, self.calls, self.last, self.log = scale, 0, None, []

    def __call__(self, x, t):
        self.calls += 1
        self.last = x
        self.log.append(float(t[0]))
        return self.scale * x


PATH = predicting("epsilon").scheduler
#: Each row: a model as it is made anew, and others that it must be told from.
MODELS = {
    "network": (net, [lambda: net(1), lambda: net(0, 8), lambda: tuned(net()), lambda: net().double()]),
    "digits": (
        lambda: models.DigitsModel(PATH), [lambda: models.DigitsModel(PATH, bandwidth=0.2)],
    ),
    "gaussian": (lambda: models.GaussianModel(PATH, 0.3, 0.2), [lambda: models.GaussianModel(PATH, 0.3, 0.21)]),
    "mixture": (
        lambda: models.GaussianMixtureModel(PATH, torch.eye(2), 0.1),
        [lambda: models.GaussianMixtureModel(PATH, torch.eye(2), 0.1, weights=[1.0, 2.0])],
    ),
    "function": (lambda: lambda x, t: 0.5 * x, [lambda: lambda x, t: 0.25 * x, lambda: lambda x, t: torch.tanh(x)]),
    "closure": (lambda: scaled_by(0.5), [lambda: scaled_by(0.25)]),
    "partial": (
        lambda: functools.partial(lambda x, t, s: s * x, s=0.5),
        [lambda: functools.partial(lambda x, t, s: s * x, s=0.7)],
    ),
    "wrapped": (lambda: scaled_by_net(net()), [lambda: scaled_by_net(net(1))]),
    "object": (lambda: Scaled(0.5), [lambda: Scaled(0.25)]),
    "edm": (lambda: models.EDMPreconditioned(net(), 0.5), [lambda: models.EDMPreconditioned(net(), 0.4)]),
}  # fmt: skip


def scaled_by_net(inner: torch.nn.Module):
    return lambda x, t: inner(x, t) * 0.5


@pytest.mark.parametrize("name", MODELS)
def test_a_fingerprint_tells_a_model_from_another(name):
    make, others = MODELS[name]
    mine = fingerprint(make())
    assert fingerprint(make()) == mine
    assert len({mine, *(fingerprint(other()) for other in others)}) == 1 + len(others)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("edm", "digits")])
@pytest.mark.parametrize("saved", ["state", "file"])
def test_a_run_goes_on_with_its_own_model_only(tmp_path, name, saved):
    make, others = MODELS[name]
    pipeline = predicting("epsilon")
    model = make()
    steps = list(pipeline.stream(model, (3, 2), 4, seed=0))
    state = steps[1].state
    if saved == "file":
        state.save(tmp_path / "run")
        state = RunState.load(tmp_path / "run")
    for again in (model, make()):  # as it is after its calls, and made anew
        assert torch.equal(list(pipeline.stream(again, resume=state))[-1].x, steps[-1].x)
    for other in (*others, None):
        with pytest.raises(ConfigurationError) as raised:
            pipeline.stream(other and other(), resume=state)
        assert raised.value.where == "model"
        assert state.model in str(raised.value)
    on_purpose = dataclasses.replace(state, model=None)
    assert len(list(pipeline.stream(others[0](), resume=on_purpose))) == 2


def test_the_digits_need_not_be_named_again():
    pipeline = predicting("epsilon")
    steps = list(pipeline.stream(None, (1, 1, 8, 8), 4, seed=0))
    for model in (None, models.DigitsModel(pipeline.scheduler)):
        assert torch.equal(list(pipeline.stream(model, resume=steps[1].state))[-1].x, steps[-1].x)
    with pytest.raises(ConfigurationError, match="another model"):
        pipeline.stream(lambda x, t: x, resume=steps[1].state)


def test_the_same_weights_compiled_or_in_parallel_are_the_same_model():
    model = net()
    same = (
        torch.compile(model, backend="eager"),
        torch.nn.DataParallel(model),
        model.forward,
        functools.partial(model),
    )
    assert {fingerprint(model)} == {fingerprint(each) for each in same}
    with torch.inference_mode():
        assert fingerprint(net()) == fingerprint(model)


def test_states_from_before_do_not_say(caplog, tmp_path):
    pipeline = predicting("epsilon")
    step = next(pipeline.stream(lambda x, t: x, (1, 1, 8, 8), 4, seed=0))
    old = dataclasses.replace(step.state, model=None)
    with caplog.at_level(logging.WARNING, "noise_scheduler_sampling_system"):
        list(pipeline.stream(lambda x, t: x, resume=old))
        assert not [record for record in caplog.records if "does not name" in record.message]
        list(pipeline.stream(resume=old))
    assert [record for record in caplog.records if "does not name" in record.message]


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("shape", (2, 3), (3, 2)),
        ("shape", 3, torch.Size((3, 2))),
        ("dtype", torch.float64, torch.float32),
        ("num_inference_steps", 7, 4),
    ],
)
def test_what_is_given_beside_resume_agrees_with_it(name, other, same):
    pipeline, model = predicting("epsilon"), net()
    state = next(pipeline.stream(model, (3, 2), 4, seed=0)).state
    with pytest.raises(ConfigurationError) as raised:
        pipeline.stream(model, resume=state, **{name: other})
    assert raised.value.where == name
    assert len(list(pipeline.stream(model, resume=state, **{name: same}))) == 3


# ------------------------------------------------------------------------------- what a first output shows


#: Schedules, and what networks on them predict.
USUAL = {
    "linear": ("epsilon", "sample", "v_prediction"),
    "scaled_linear": ("epsilon", "sample", "v_prediction"),
    "cosine": ("epsilon", "sample", "v_prediction"),
    "edm": ("epsilon", "sample"),
    "flow": ("sample", "flow_prediction"),
    "v_diffusion": ("sample", "v_prediction"),
}
#: At the noisiest level x₀ and v are each other's negative, and no look tells them apart.
ALIKE = {"sample", "v_prediction"}
DATA = {
    "digits": models.DigitsModel,
    "bright": lambda path, kind: models.GaussianModel(path, 0.7, 0.09, kind),
    "narrow": lambda path, kind: models.GaussianModel(path, 0.2, 0.01, kind),
    "wide": lambda path, kind: models.GaussianModel(path, 0.5, 4.0, kind),
}


def warnings_of(caplog, pipeline, model, **run) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "noise_scheduler_sampling_system"):
        pipeline.sample(model, (2, 1, 16, 16), **{"num_inference_steps": 20, "seed": 0} | run)
    return [record.getMessage() for record in caplog.records if "does not look like" in record.message]


def silent(model):
    """The same model, which does not say what it predicts."""
    return lambda x, t, **condition: model(x, t, **condition)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("schedule", USUAL)
def test_another_type_shows_in_the_first_output(schedule, data, caplog):
    """Every pair of types: none is taken for wrong that is right; others are named, but for ``ALIKE``."""
    for configured in USUAL[schedule]:
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule, prediction_type=configured))
        for true in USUAL[schedule]:
            said = warnings_of(caplog, pipeline, silent(DATA[data](pipeline.scheduler, true)), num_inference_steps=10)
            assert len(said) <= (true != configured)
            if data != "wide" and true != configured:  # the wider the data, the less it tells
                assert len(said) == ({true, configured} != ALIKE)
                assert all(repr(true) in text.partition("It looks like")[2] for text in said)


@pytest.mark.parametrize("method", ["heun", "dpmpp_2m_sde", "edm", "adaptive", "pndm"])
def test_every_sampler_looks_once_for_each_model(method, caplog):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), method)
    right, wrong = (silent(models.DigitsModel(pipeline.scheduler, kind)) for kind in ("epsilon", "v_prediction"))
    assert not warnings_of(caplog, pipeline, right)
    assert len(warnings_of(caplog, pipeline, wrong)) == 1
    assert not warnings_of(caplog, pipeline, wrong)
    other = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), method)
    assert not warnings_of(caplog, other, wrong)


def test_the_trained_network_shows_it(caplog):
    """The issue's case, for a network that does not say it."""
    network = silent(models.mnist_unet())
    run = {"num_inference_steps": 1, "timesteps": [999]}
    for kind, count in (("epsilon", 1), ("v_prediction", 0)):
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type=kind))
        with caplog.at_level(logging.WARNING, "noise_scheduler_sampling_system"):
            pipeline.sample(network, (2, 1, 28, 28), seed=0, **run)
        assert sum("does not look like" in record.message for record in caplog.records) == count
        caplog.clear()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_guidance_and_learned_variances_are_looked_behind(kind, caplog):
    """The raw output under the condition is looked at, not what guidance makes of it."""
    config = NoiseSchedulerConfig(prediction_type="epsilon")
    pipeline = DiffusionPipeline(config)
    model = silent(models.DigitsModel(pipeline.scheduler, kind))
    labels = {"condition": {"class_labels": torch.tensor([3, 4])}, "null_condition": {"class_labels": 10}}
    said = warnings_of(caplog, pipeline, model, guidance_scale=15.0, **labels)
    assert len(said) == (kind != "epsilon")
    learned = DiffusionPipeline(config.replace(variance_type="learned_range"), "ddpm")
    inner = models.DigitsModel(learned.scheduler, kind)
    said = warnings_of(caplog, learned, lambda x, t: torch.cat([inner(x, t), 0.0 * x], 1))
    assert len(said) == (kind != "epsilon")


def test_a_look_changes_nothing_and_costs_nothing_later():
    pipeline = predicting("epsilon")
    model = silent(models.DigitsModel(pipeline.scheduler))
    run = {"shape": (2, 1, 8, 8), "num_inference_steps": 4, "seed": 0}
    first, again = pipeline.sample(model, **run), pipeline.sample(model, **run)
    assert torch.equal(first, again)
    look = Look(model, "epsilon", straight=False)
    assert look.around(model, None) is model  # after the first run there is nothing around the call
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    pipeline.sample(silent(model), initial_noise=x, num_inference_steps=2, differentiable=True).sum().backward()
    assert x.grad is not None
