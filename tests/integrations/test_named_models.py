"""Models by name: what a name tells, and runs of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny_pipelines
from noise_scheduler_sampling_system import ConfigurationError, DeviceError, DiffusionPipeline
from noise_scheduler_sampling_system.integrations.named_models import named_model


def test_an_embedded_model_runs_with_what_its_name_implies():
    known = named_model("mnist")
    pipeline = known.pipeline("dpmpp_2m", settings={"timestep_spacing": "kl_optimal"})
    assert (pipeline.config.prediction_type, known.num_classes) == ("v_prediction", 10)
    samples = pipeline.sample(
        **known.arguments(pipeline, labels=[3, 7], guidance_scale=2.0), num_inference_steps=2, seed=0
    )
    assert samples.shape == (2, 1, 28, 28)
    digits = named_model("digits")
    own = digits.pipeline(None, preset="sd15")
    assert own.method == "ddim"
    expected = own.sample(shape=(3, 1, 8, 8), num_inference_steps=3, seed=0)
    assert torch.equal(own.sample(**digits.arguments(own, batch=3), num_inference_steps=3, seed=0), expected)


def test_an_attribute_of_a_module_says_its_prediction_and_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_named_models.py").write_text(
        "class Net:\n"
        "    prediction_type, shape, num_classes = 'sample', (2, 4), 3\n"
        "    def __call__(self, x, t, class_labels=None): return x * 0.0\n"
        "class Holder: net = Net()\n"
        "text = 'no model'\n"
    )
    monkeypatch.chdir(tmp_path)
    known = named_model("my_named_models:Holder.net")
    pipeline = known.pipeline("ddim")
    assert (known.shape, known.num_classes, pipeline.config.prediction_type) == ((2, 4), 3, "sample")
    samples = pipeline.sample(**known.arguments(pipeline, batch=2), num_inference_steps=3, seed=0)
    assert torch.equal(samples, torch.zeros(2, 2, 4))
    for name, what in (("my_named_models:text", "is of type str"), ("my_named_models:none", "cannot be imported")):
        with pytest.raises(ConfigurationError, match=what):
            named_model(name)


@pytest.mark.parametrize("kind", ["sd", "ddpm"])
def test_a_folder_runs_as_its_own_pipeline_does(kind: str, tmp_path: Path):
    pipe = tiny_pipelines.build(kind)
    pipe.save_pretrained(tmp_path)
    known = named_model(str(tmp_path))
    pipeline = known.pipeline("dpmpp_2m")
    prompt = {"prompt": ["a red cat"]} if kind == "sd" else {}
    arguments = known.arguments(pipeline, **prompt)
    samples = pipeline.sample(**arguments, num_inference_steps=3, seed=0)
    expected = DiffusionPipeline.from_diffusers(pipe, "dpmpp_2m").generate(
        **{name: text[0] for name, text in prompt.items()}, num_inference_steps=3, seed=0, output_type="pt"
    )
    torch.testing.assert_close(known.pictures(pipeline, samples), expected * 2.0 - 1.0, atol=1e-5, rtol=0.0)


def test_what_a_model_does_not_take_is_refused(tmp_path: Path):
    digits = named_model("digits")
    with pytest.raises(ConfigurationError, match="prompt"):
        digits.arguments(digits.pipeline(), prompt=["a cat"])
    with pytest.raises(ConfigurationError, match=r"model_index\.json"):
        named_model(str(tmp_path))
    with pytest.raises(ConfigurationError, match="module:attribute"):
        named_model("digit")


def test_a_model_goes_to_a_device_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_placed_models.py").write_text("import torch\nnet = torch.nn.Linear(2, 2, device='meta')\n")
    monkeypatch.chdir(tmp_path)
    own = named_model("my_placed_models:net")
    assert own.on() is own, "an attribute stays where its owner put it"
    assert named_model("digits").on("cpu").model is None
    mnist = named_model("mnist").on("cpu")
    assert {p.device.type for p in mnist.model.parameters()} == {"cpu"}
    for device in ("foo", "cuda:99", "meta"):
        with pytest.raises(DeviceError):
            mnist.on(device)
