"""The checks of densities and weightings: those of the library pass, wrong ones are found out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError
from noise_scheduler_sampling_system.config import DENSITIES, WEIGHTINGS
from noise_scheduler_sampling_system.schedules import FlowPath
from noise_scheduler_sampling_system.testing import check_density, check_weighting
from noise_scheduler_sampling_system.training import CosMap, Density, Importance, Weighting

OPTIONS = {"log_uniform": {"log_snr_min": -9.0, "log_snr_max": 9.0}}


@pytest.mark.parametrize("name", DENSITIES.entries)
def test_the_densities_of_the_library_conform(name):
    report = check_density({"name": name, **OPTIONS.get(name, {})})
    assert report.paths == 4
    assert report.slope < 1e-4


def test_a_piecewise_density_conforms():
    assert check_density(Importance(bins=3, moments=(1.0, 25.0, 4.0)), [FlowPath()]).inverse < 1e-9


@pytest.mark.parametrize("name", WEIGHTINGS.entries)
def test_the_weightings_of_the_library_conform(name):
    assert "weights of x₀ from" in str(check_weighting(name))


@dataclass(frozen=True, eq=False)
class Narrow(Density):
    """A density whose three functions do not fit together."""

    wrong: str = "density"

    def _cdf(self, y, axis):
        return CosMap()._cdf(y, axis)

    def _quantile(self, u, axis):
        return CosMap()._quantile(u * (0.9 if self.wrong == "quantile" else 1.0), axis)

    def _log_density(self, y, axis):
        return CosMap()._log_density(y, axis) + (0.1 if self.wrong == "density" else 0.0)


@dataclass(frozen=True, eq=False)
class Spread(Weighting):
    """Weights that sum to 1 over the batch, which no weight of a level does."""

    def log_weight(self, log_snr):
        return torch.log_softmax(log_snr, dim=0)


@dataclass(frozen=True, eq=False)
class Endless(Weighting):
    def log_weight(self, log_snr):
        return log_snr.exp().exp()


@pytest.mark.parametrize(("check", "given", "message"), [
    (check_density, Narrow("density"), "_log_density is not the slope"),
    (check_density, Narrow("quantile"), "does not invert"),
    (check_weighting, Spread(), "depends on the other levels"),
    (check_weighting, Endless(), "not finite"),
])  # fmt: skip
def test_what_does_not_conform_is_found(check, given, message):
    with pytest.raises(ConfigurationError, match=message):
        check(given)
