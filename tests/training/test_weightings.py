"""Weights of the loss: the published forms, and one loss with one gradient for every prediction type."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from noise_scheduler_sampling_system import ConfigurationError, NoiseSchedulerFactory
from noise_scheduler_sampling_system.config import WEIGHTINGS
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.models import EDMPreconditioned
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, SubVPPath, VPPath
from noise_scheduler_sampling_system.training import P2, EDMWeight, MinSNR, TrainingObjective, check_terminal_snr

PATHS = {"vp": VPPath(), "flow": FlowPath(), "edm": EDMPath(), "sub_vp": SubVPPath()}


class Network(nn.Module):
    """A small network whose output is an x₀, with the conversion to what is asked for."""

    def __init__(self, path, kind):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()
        self.path, self.kind = path, kind

    def forward(self, x, t):
        clean = self.layers(torch.cat([x / (1.0 + x.abs()), t[:, None] / self.path.t_max], dim=1))
        alpha, sigma = (factor[:, None] for factor in self.path.alpha_and_sigma(t))
        noise = (x - alpha * clean) / sigma
        return {
            "sample": clean, "epsilon": noise, "v_prediction": alpha * noise - sigma * clean,
            "flow_prediction": noise - clean,
        }[self.kind]  # fmt: skip


def gradient(path, kind, weighting, **keywords):
    network = Network(path, kind)
    objective = TrainingObjective(path, kind, density="cosmap", weighting=weighting, **keywords)
    x0 = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(32, 2)
    loss = objective.loss(network, x0, seed=1, step=0)
    loss.backward()
    return loss.detach(), torch.cat([each.grad.flatten() for each in network.parameters()])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weighting", WEIGHTINGS.entries)
def test_every_prediction_type_has_the_same_loss_and_the_same_gradient(path, weighting):
    values = [gradient(PATHS[path], kind, weighting) for kind in PREDICTION_TYPES]
    for loss, grad in values[1:]:
        torch.testing.assert_close(loss, values[0][0], rtol=1e-9, atol=0)
        torch.testing.assert_close(grad, values[0][1], rtol=1e-7, atol=1e-10 * float(values[0][1].abs().max()))


@pytest.mark.parametrize(("path", "kind", "weighting"), [
    ("vp", "epsilon", "snr"), ("vp", "v_prediction", "snr_plus_one"), ("vp", "sample", "sample"),
    ("flow", "flow_prediction", "flow"), ("flow", "epsilon", "snr"), ("edm", "sample", "sample"),
])  # fmt: skip
def test_a_plain_loss_is_a_weighting(path, kind, weighting):
    t = PATHS[path].time(torch.linspace(-8, 8, 9, dtype=torch.float64))
    weights = TrainingObjective(PATHS[path], kind, weighting=weighting).weight(t)
    torch.testing.assert_close(weights, torch.ones_like(t), rtol=1e-9, atol=0)


SNR_AT = torch.linspace(-9, 9, 13, dtype=torch.float64).exp()


@pytest.mark.parametrize(("kind", "weighting", "formula"), [
    ("epsilon", "min_snr", lambda s: s.clamp(max=5) / s),
    ("sample", "min_snr", lambda s: s.clamp(max=5)),
    ("v_prediction", "min_snr", lambda s: s.clamp(max=5) / (s + 1)),
    ("epsilon", P2(k=1.0, gamma=0.5), lambda s: (1 + s) ** -0.5),
    ("epsilon", "debiased", lambda s: s**-0.5),
    ("sample", "truncated_snr", lambda s: s.clamp(min=1)),
    ("v_prediction", "snr", lambda s: s / (s + 1)),  # kohya's scale_v_pred_loss_like_noise_pred
    ("epsilon", "sigmoid", lambda s: torch.sigmoid(-s.log())),
    ("sample", "soft_min_snr", lambda s: 1 / (1 / s + 1 / 4)),
    ("sample", "edm", lambda s: (1 / s + 0.25) / (0.25 / s)),  # (σ² + σ_data²)/(σ·σ_data)²
])  # fmt: skip
def test_the_published_forms(kind, weighting, formula):
    path = VPPath(t_min=1e-5)
    weights = TrainingObjective(path, kind, weighting=weighting).weight(path.time(SNR_AT.log()))
    torch.testing.assert_close(weights, formula(path.snr(path.time(SNR_AT.log()))), rtol=1e-9, atol=0)


def test_the_weights_of_diffusers_and_k_diffusion():
    sigma = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    path = FlowPath(time_scale=1.0)
    sigma_sqrt = TrainingObjective(path, weighting="sigma_sqrt").weight(sigma)
    torch.testing.assert_close(sigma_sqrt, sigma**-2, rtol=1e-9, atol=0)
    edm, data = EDMPath(), 0.5
    sigma = torch.logspace(-2, 1.5, 12, dtype=torch.float64)
    total, product = sigma**2 + data**2, (sigma * data) ** 2
    # k-diffusion's Denoiser weighs the loss of the raw network, (D − x₀)²·total/product
    soft, plain = product / total**2, data**2 / total
    for theirs, ours in ((soft, {"name": "soft_min_snr", "gamma": 1 / data**2}), (plain, "snr")):
        weight = TrainingObjective(edm, "sample", weighting=ours).weight(sigma)
        torch.testing.assert_close(weight, theirs * total / product)


def test_edm_weights_make_the_loss_of_the_raw_network_plain():
    class Raw(nn.Module):
        def forward(self, x, t):
            return torch.tanh(x) + t.reshape(-1, *[1] * (x.ndim - 1))

    path = EDMPath()
    objective = TrainingObjective(path, "sample", density={"name": "lognormal", "mean": -1.2, "std": 1.2},
                                  weighting=EDMWeight(0.5))  # fmt: skip
    x0 = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(8, 4)
    batch = objective.prepare(x0, seed=0, step=0)
    model = EDMPreconditioned(Raw(), sigma_data=0.5)
    sigma = batch.t[:, None]
    c_out = sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    c_skip = 0.25 / (sigma**2 + 0.25)
    raw = (model(batch.noisy, batch.t) - c_skip * batch.noisy) / c_out
    target = (x0 - c_skip * batch.noisy) / c_out
    expected = (raw - target).square().mean()
    torch.testing.assert_close(batch.loss(model(batch.noisy, batch.t)), expected, rtol=1e-6, atol=0)


def test_a_weight_is_its_limit_where_no_signal_is_left():
    path = NoiseSchedulerFactory.create("scaled_linear", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    last = torch.tensor([998.0, 999.0])
    for weighting, kind in itertools.product(WEIGHTINGS.entries, ("sample", "v_prediction", "flow_prediction")):
        weights = TrainingObjective(path, kind, weighting=weighting).weight(last)
        assert torch.isfinite(weights).all()
        assert weights[1] == pytest.approx(float(weights[0]), rel=0.2, abs=5e-3)
    assert TrainingObjective(path, weighting="min_snr").weight(999.0) == pytest.approx(0.0, abs=1e-60)


def test_terminal_snr_is_checked():
    leaks = check_terminal_snr(NoiseSchedulerFactory.create("scaled_linear", beta_start=0.00085, beta_end=0.012))
    assert leaks.signal == pytest.approx(0.0682, abs=1e-3)  # Lin et al. 2023, Table 1
    assert "rescale_betas_zero_snr" in str(leaks)
    zero = NoiseSchedulerFactory.create("scaled_linear", rescale_betas_zero_snr=True, timestep_spacing="leading",
                                        prediction_type="v_prediction")  # fmt: skip
    with pytest.raises(ConfigurationError, match="ε does not determine"):
        TrainingObjective(zero, "epsilon")
    found = TrainingObjective(zero, weighting=MinSNR()).terminal
    assert (found.snr, found.signal, len(found.problems)) == (0.0, 0.0, 2)
    assert not TrainingObjective(FlowPath()).terminal.problems
    assert "v_prediction" in check_terminal_snr(zero, "noise").problems[0]  # another name of ε
    assert check_terminal_snr(zero, weighting="min_snr").weight == 0.0
    for arguments, where in (
        (("linear",), "path"), ((zero, "epsilonn"), "prediction_type"), ((zero, None, "min"), "weighting")
    ):  # fmt: skip
        with pytest.raises(ConfigurationError) as error:
            check_terminal_snr(*arguments)
        assert error.value.where == where


def test_snr_is_public_on_every_path():
    for path in PATHS.values():
        t = path.time(torch.tensor([-2.0, 3.0], dtype=torch.float64))
        torch.testing.assert_close(path.snr(t), torch.tensor([-2.0, 3.0], dtype=torch.float64).exp())
    assert FlowPath().snr(1000.0) == 0.0
    assert FlowPath().snr(0.0) == float("inf")
