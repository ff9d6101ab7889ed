"""``first_index``: samples a, a + 1, ... of a seed are the rows of one large batch."""

import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.models import GaussianModel

SHAPE = (1, 4, 4)


@pytest.mark.parametrize("method", ["ddim", "ancestral", "dpmpp_2m_sde", "ddpm"])
@pytest.mark.parametrize("noise", ["independent", "brownian"])
def test_a_part_of_a_seed_is_a_part_of_the_whole_batch(method, noise):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), method)
    model = GaussianModel(pipeline.scheduler, mean=0.3, covariance=0.2)
    if noise == "brownian" and method == "ddim":
        pytest.skip("it draws no noise")
    run = {"num_inference_steps": 6, "seed": 7, "noise": noise}
    whole = pipeline.sample(model, (300, *SHAPE), **run)
    part = pipeline.sample(model, (13, *SHAPE), first_index=257, **run)
    torch.testing.assert_close(part, whole[257:270], rtol=0, atol=1e-6)
    result = pipeline.sample(model, (13, *SHAPE), first_index=257, max_batch_size=4, return_result=True, **run)
    assert result.keys == tuple((7, i) for i in range(257, 270))
    torch.testing.assert_close(result.samples, part, rtol=0, atol=1e-6)


def test_a_stream_begins_at_the_same_sample():
    pipeline = DiffusionPipeline(None, "ancestral")
    run = {"shape": (3, 1, 8, 8), "num_inference_steps": 4, "seed": 1, "first_index": 10**9}
    *_, last = pipeline.stream(**run)
    assert torch.equal(last.x, pipeline.sample(**run))
    assert last.state.keys[0] == (1, 10**9)
    with pytest.raises(ConfigurationError) as raised:
        next(pipeline.stream(resume=last.state, first_index=3))
    assert raised.value.where == "first_index"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"first_index": 5}, "the seed is drawn"),
        ({"first_index": 5, "generator": torch.Generator()}, "the seed is drawn"),
        ({"first_index": 5, "seed": [1, 2]}, "a seed for each sample"),
        ({"first_index": 2**40 - 1, "seed": 1}, "calibrations"),
        ({"first_index": 2**40, "seed": 1}, "from 0 to"),
        ({"first_index": -1, "seed": 1}, "from 0 to"),
        ({"first_index": 1.0, "seed": 1}, "from 0 to"),
        ({"first_index": True, "seed": 1}, "from 0 to"),
        ({"first_index": "3", "seed": 1}, "from 0 to"),
    ],
)
def test_an_index_that_names_no_sample_is_refused(arguments, says):
    def model(x, t):
        raise AssertionError("called")

    with pytest.raises(ConfigurationError, match=says) as raised:
        DiffusionPipeline(None, "ddim").sample(model, (2, *SHAPE), **arguments)
    assert raised.value.where == "first_index"
