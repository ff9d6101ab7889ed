"""Networks of diffusers in a pipeline of ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from small_runs import draw, pipeline


@pytest.fixture(scope="module")
def unets() -> dict[str, Any]:
    from diffusers import UNet2DConditionModel, UNet2DModel

    torch.manual_seed(0)
    common = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return {
        "plain": UNet2DModel(
            **common, in_channels=2, out_channels=2, attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ).eval(),
        "text": UNet2DConditionModel(
            **common, in_channels=2, out_channels=2, cross_attention_dim=32, attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ).eval(),
    }  # fmt: skip


def test_a_diffusers_unet_is_called_as_it_is(unets, caplog):
    unet = unets["plain"]
    got = pipeline().sample(unet, (2, 2, 8, 8), 3, seed=0)
    by_hand = pipeline().sample(lambda x, t: unet(x, t, return_dict=False)[0], (2, 2, 8, 8), 3, seed=0)
    torch.testing.assert_close(got, by_hand, rtol=1e-6, atol=1e-6)
    said = [record for record in caplog.records if "does not look like" not in record.message]  # it is not trained
    assert not said


def test_a_text_conditioned_unet_without_text_is_given_zeros_and_a_warning(unets, caplog):
    unet = unets["text"]
    zeros = torch.zeros(2, 77, 32)
    got = pipeline().sample(unet, (2, 2, 8, 8), 3, seed=0)
    assert caplog.text.count("encoder_hidden_states") == 1
    given = pipeline().sample(
        unet, (2, 2, 8, 8), 3, seed=0, condition={"encoder_hidden_states": zeros}, classifier_free_guidance=False
    )
    assert torch.equal(got, given)
    assert caplog.text.count("encoder_hidden_states") == 1


def test_text_guidance_of_a_unet(unets):
    unet, text = unets["text"], draw((2, 77, 32), seed=3)
    shape = (2, 2, 8, 8)
    got = pipeline().sample(unet, shape, 3, 4.0, seed=0, condition={"encoder_hidden_states": text})

    def by_hand(x, t):
        c = unet(x, t, encoder_hidden_states=text).sample
        u = unet(x, t, encoder_hidden_states=torch.zeros_like(text)).sample
        return u + 4.0 * (c - u)

    with torch.no_grad():
        torch.testing.assert_close(got, pipeline().sample(by_hand, shape, 3, seed=0), rtol=1e-4, atol=1e-4)


def test_a_compiled_unet_is_recognised(unets, caplog):
    compiled = torch.compile(unets["text"], backend="eager")
    got = pipeline().sample(compiled, (2, 2, 8, 8), 2, seed=0)
    assert "encoder_hidden_states" in caplog.text
    torch.testing.assert_close(got, pipeline().sample(unets["text"], (2, 2, 8, 8), 2, seed=0), rtol=1e-5, atol=1e-5)
