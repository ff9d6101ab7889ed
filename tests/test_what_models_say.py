"""What a model says of itself, or shows: what it predicts, and whether it is the model that a run began with."""

from __future__ import annotations

import functools

import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    guidance,
    models,
)

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
