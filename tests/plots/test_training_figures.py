"""The figure of training objectives shows their densities, and the same curve for the same loss."""

from __future__ import annotations

import numpy as np
import pytest

from noise_scheduler_sampling_system import ConfigurationError, plots
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, VPPath
from noise_scheduler_sampling_system.training import LogNormal, TrainingObjective, Uniform


def curves(figure, k):
    return [line.get_xydata() for line in figure.axes[k].lines]


def test_the_density_is_that_of_the_draws():
    objective = TrainingObjective(FlowPath(), density=LogNormal(0.5, 0.6))
    (curve,) = curves(plots.plot_training(objective), 0)
    t = objective.draw(4000, seed=0, step=0)
    counts, ends = np.histogram(objective.path.log_snr(t).numpy(), bins=12, range=(-3, 2), density=False)
    expected = np.interp((ends[1:] + ends[:-1]) / 2, *curve.T) * np.diff(ends) * 4000
    assert np.abs(counts - expected).max() < 20  # strata


def test_one_loss_has_one_curve_whatever_the_network_predicts():
    figure = plots.plot_training({
        kind: TrainingObjective(VPPath(), kind, density="cosmap", weighting="min_snr")
        for kind in ("epsilon", "v_prediction", "sample", "flow_prediction")
    })  # fmt: skip
    first, *others = curves(figure, 1)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-9)


def test_flow_matching_is_v_prediction_with_another_density():
    """The plain flow loss with uniform σ weighs as e^(−λ/2) (Kingma & Gao 2023, appendix D.3): symmetric draws
    1/(4·cosh²(λ/4)), times (1 + √SNR)²/SNR."""
    (flow,) = curves(plots.plot_training(TrainingObjective(FlowPath(sigma_min=1e-8), density=Uniform())), 1)
    slope = np.polyfit(flow[300:500, 0], np.log(flow[300:500, 1]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=1e-3)


def test_paths_of_other_ends_and_whole_timesteps_are_drawn(tmp_path):
    from noise_scheduler_sampling_system import NoiseSchedulerFactory

    objectives = [TrainingObjective(path) for path in (EDMPath(), NoiseSchedulerFactory.create("cosine"), FlowPath())]
    figure = plots.plot_training(objectives)
    assert all(np.isfinite(curve).all() for k in (0, 1) for curve in curves(figure, k))
    figure.savefig(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="TrainingObjective"):
        plots.plot_training(FlowPath())
