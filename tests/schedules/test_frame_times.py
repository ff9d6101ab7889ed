"""Times of shape (B, T): the forward process and the exact Gaussian, frame by frame."""

from __future__ import annotations

import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, FlowPath, LinearNoiseScheduler, NoisePath, VPPath
from noise_scheduler_sampling_system.models import DigitsModel, GaussianModel

PATHS = [LinearNoiseScheduler(), FlowPath(), VPPath()]
KINDS = ("epsilon", "sample", "v_prediction", "flow_prediction")


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("frame_dim", [1, 2])
def test_each_frame_has_its_own_level(path: NoisePath, frame_dim: int) -> None:
    x0, noise = torch.randn(2, 2, 3, 4, 4), torch.randn(2, 2, 3, 4, 4)
    t = path.t_min + torch.rand(2, x0.shape[frame_dim]) * 0.9 * (path.t_max - path.t_min)
    for function in (path.add_noise, path.target, path.velocity, path.get_velocity):
        whole = function(x0, noise, t, frame_dim=frame_dim)
        assert whole.shape == x0.shape
        for frame in range(t.shape[1]):
            one = function(x0.select(frame_dim, frame), noise.select(frame_dim, frame), t[:, frame])
            assert torch.equal(whole.select(frame_dim, frame), one)
        shared = function(x0, noise, t[:1], frame_dim=frame_dim)  # the same times for all samples
        assert torch.equal(shared, function(x0, noise, t[:1].expand(2, -1), frame_dim=frame_dim))


def test_times_of_other_frames_are_refused() -> None:
    path, x0 = PATHS[0], torch.zeros(2, 3, 4)
    for t, frame_dim, message in (
        (torch.zeros(2, 4), 1, "t has shape"),
        (torch.zeros(3, 3), 1, "t has shape"),
        (torch.zeros(2, 3), 3, "frame_dim: got 3"),
        (torch.zeros(2, 3), 0, "frame_dim: got 0"),
        (torch.zeros(2, 3), True, "frame_dim: got True"),
        (torch.zeros(2, 3, 1), 1, "t has shape"),
        (torch.full((2, 3), 2000.0), 1, "outside"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            path.add_noise(x0, x0, t, frame_dim=frame_dim)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_gaussian_agrees_with_itself_where_all_levels_agree(path: NoisePath, kind: str) -> None:
    root = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = root @ root.T / 12 + 0.1 * torch.eye(12)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    t = path.t_min + torch.linspace(0.05, 0.95, 5) * (path.t_max - path.t_min)
    for spread in (covariance, covariance.diagonal().reshape(4, 3), 0.3):
        model = GaussianModel(path, torch.randn(4, 3), spread, kind)
        assert torch.allclose(model(x, t[:, None].expand(5, 4)), model(x, t), atol=1e-12)
        assert torch.allclose(model(x, t[:1, None].expand(5, 4)), model(x, t[:1]), atol=1e-12)


def test_the_exact_gaussian_is_the_conditional_mean() -> None:
    """E[x₀ | x] by regression of x₀ on x over many draws, with a level for each frame and channels before frames."""
    path = FlowPath()
    generator = torch.Generator().manual_seed(0)
    correlation = 0.8 ** (torch.arange(3)[:, None] - torch.arange(3)).abs().double()
    covariance = torch.kron(torch.tensor([[1.0, 0.4], [0.4, 0.5]]).double(), correlation)  # (C, T): channels first
    model = GaussianModel(path, torch.zeros(2, 3), covariance, "sample", frame_dim=2)
    t = torch.tensor([[100.0, 500.0, 950.0]])
    x0 = model.sample_data(200_000, generator=generator)
    x = path.add_noise(x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64), t, frame_dim=2)
    fitted = torch.linalg.lstsq(x.flatten(1), x0.flatten(1)).solution
    maps = model(torch.eye(6, dtype=torch.float64).reshape(6, 2, 3), t.expand(6, 3)).flatten(1)
    assert (fitted - maps).abs().max() < 0.01  # 200,000 draws
    clean = model(x[:4], torch.zeros(4, 3))  # frames without noise are what they are
    assert torch.allclose(clean, x[:4], atol=1e-6)


def test_what_the_exact_models_refuse() -> None:
    path = FlowPath()
    with pytest.raises(ConfigurationError, match="one noise level a sample"):
        DigitsModel(path)(torch.zeros(1, 1, 8, 8), torch.ones(1, 1))
    model = GaussianModel(path, torch.zeros(3, 2), torch.eye(6))
    with pytest.raises(ConfigurationError, match="t has shape"):
        model(torch.zeros(2, 3, 2), torch.ones(2, 2))
    flat = GaussianModel(path, torch.zeros(2, 1), torch.ones(2, 2))  # no width in one direction
    with pytest.raises(ConfigurationError, match="singular"):
        flat(torch.zeros(1, 2, 1), torch.zeros(1, 2))
