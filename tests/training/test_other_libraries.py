"""The table of names in docs/training.md: what other libraries draw and weigh is what it is said to be here."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from noise_scheduler_sampling_system import NoiseSchedulerFactory
from noise_scheduler_sampling_system.schedules import FlowPath
from noise_scheduler_sampling_system.training import CosMap, LogNormal, Mode, TrainingObjective, Uniform

training_utils = pytest.importorskip("diffusers.training_utils")
COUNT = 4000


@pytest.mark.parametrize(("scheme", "options", "density"), [
    ("logit_normal", {"logit_mean": 0.6, "logit_std": 0.7}, LogNormal(-0.6, 0.7, shift=3.0)),
    ("mode", {"mode_scale": 1.29}, Mode(1.29, shift=3.0)),
    ("none", {}, Uniform(shift=3.0)),
])  # fmt: skip
def test_the_levels_of_diffusers_training_scripts(scheme, options, density):
    """They index the scheduler's shifted timesteps, which fall, with u: a mean changes its sign."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    u = training_utils.compute_density_for_timestep_sampling(
        scheme, COUNT, generator=torch.Generator().manual_seed(0), **options
    )
    theirs = scheduler.timesteps[(u * 1000).long()].double()
    ours = density.on(FlowPath()).times(torch.rand(COUNT, generator=torch.Generator().manual_seed(1)))
    assert stats.ks_2samp(theirs.numpy(), ours.numpy()).pvalue > 1e-3
    mirrored = LogNormal(0.6, 0.7, shift=3.0).on(FlowPath()).times(torch.rand(COUNT))
    assert stats.ks_2samp(theirs.numpy(), mirrored.numpy()).pvalue < 1e-6


def test_the_weights_of_diffusers_flow_scripts():
    sigma = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    path = FlowPath(sigma_min=1e-8, time_scale=1.0)
    theirs = training_utils.compute_loss_weighting_for_sd3("sigma_sqrt", sigma)
    torch.testing.assert_close(TrainingObjective(path, weighting="sigma_sqrt").weight(sigma).float(), theirs)
    cosmap = training_utils.compute_loss_weighting_for_sd3("cosmap", sigma)
    torch.testing.assert_close(CosMap().on(path).log_density(sigma).exp(), cosmap, rtol=1e-6, atol=0)
    as_ratio = TrainingObjective(path, over="cosmap")  # their uniform draws with that weight
    torch.testing.assert_close(as_ratio.weight(sigma), cosmap, rtol=1e-6, atol=0)


def test_the_snr_and_min_snr_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    t = torch.tensor([0, 10, 500, 999])
    theirs = training_utils.compute_snr(diffusers.DDPMScheduler(), t).double()
    path = NoiseSchedulerFactory.create("linear")
    torch.testing.assert_close(path.snr(t), theirs, rtol=2e-3, atol=0)  # theirs is float32, 1 − ᾱ cancels
    for kind, more in (("epsilon", 0.0), ("v_prediction", 1.0)):  # as in train_text_to_image.py
        weight = TrainingObjective(path, kind, weighting={"name": "min_snr", "gamma": 5.0}).weight(t)
        torch.testing.assert_close(weight, theirs.clamp(max=5.0) / (theirs + more), rtol=2e-3, atol=0)
