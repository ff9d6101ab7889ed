"""Sets of a pipeline of diffusers: prompts are conditions, and images are written in place of latents."""

import numpy as np
import pytest

import tiny_pipelines as tiny
from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.bulk import generate_dataset
from noise_scheduler_sampling_system.bulk.inputs import InTurn, Pictures
from noise_scheduler_sampling_system.integrations.named_models import NamedModel


def test_prompts_are_conditions_and_images_are_written(tmp_path):
    import pyarrow.parquet
    from PIL import Image

    pipe = tiny.build("sd")
    pipeline = DiffusionPipeline.from_diffusers(pipe, "ddim")
    prompts = ["a cat", "a dog", "a cow"]
    asked = {"seed": 2, "num_inference_steps": 3, "guidance_scale": 3.0, "condition": InTurn({"prompt": prompts})}
    generate_dataset(pipeline, None, 5, tmp_path / "latents", batch_size=2, shard_size=4, **asked)
    tables = [pyarrow.parquet.read_table(file) for file in sorted((tmp_path / "latents" / "shards").iterdir())]
    rows = pyarrow.concat_tables(tables).to_pylist()
    assert [row["condition.prompt"] for row in rows] == [*prompts, *prompts[:2]]
    whole = pipeline.generate(
        [*prompts, *prompts[:2]], seed=2, num_inference_steps=3, guidance_scale=3.0, output_type="latent"
    )
    got = np.array([np.reshape(row["array"], row["shape"]) for row in rows])
    np.testing.assert_allclose(got, whole.numpy(), rtol=0, atol=1e-4 * float(whole.abs().max()))

    known = NamedModel("tiny", pipe=pipe)
    generate_dataset(
        pipeline, None, 2, tmp_path / "png", batch_size=2, format="png", decode=Pictures(known, pipeline), **asked
    )
    picture = np.asarray(Image.open(tmp_path / "png" / "shards" / "shard-0000000" / "000000000001.png"))
    wanted = pipeline.generate(prompts[:2], seed=2, num_inference_steps=3, guidance_scale=3.0, output_type="np")[1]
    assert picture.shape == wanted.shape
    assert np.abs(picture / 255.0 - wanted).max() < 0.01


def test_a_pipeline_of_diffusers_knows_its_shape_and_needs_its_prompt(tmp_path):
    pipeline = DiffusionPipeline.from_diffusers(tiny.build("sd"), "ddim")
    with pytest.raises(ConfigurationError) as raised:
        generate_dataset(pipeline, None, 2, tmp_path / "a", seed=0, shape=(4, 8, 8))
    assert raised.value.where == "shape"
    with pytest.raises(ConfigurationError) as raised:
        generate_dataset(pipeline, None, 2, tmp_path / "a", seed=0)
    assert raised.value.where == "prompt"
