"""A second trained network, independent of this library: the score networks of galaxies in galaxygrad 0.1.8.

    pip install --no-deps --target benchmarks/.cache galaxygrad==0.1.8     # 32 MB; only its files are read
    python benchmarks/galaxy_network.py [--name hsc_ScoreNet32] [--samples 64] [--out galaxies.png]

galaxygrad (Sampson et al.) states no licence, so neither its code nor its weights are part of this library. It runs on
JAX. This file reads its weights with NumPy and evaluates the networks with PyTorch: MLP-Mixers (Tolstikhin et al. 2021,
arXiv 2105.01601) with 4×4 patches, the time as a second channel, on the VP path with α(t) = exp(−t/2), t to 10. They
predict the score ∇log p, which is turned into ε = −σ·score. The images are arcsinh-like scaled surface brightness of
galaxies of the Hyper Suprime-Cam survey (hsc) and the Zwicky Transient Facility (ZTF).

The command checks the port by what a network of a diffusion model must do. It prints, for several levels, how far its
prediction of clean samples reduces the noise of noised samples of its own, and whether its ODE passes through the
spread of these noised samples. It draws the samples.
"""

from __future__ import annotations

import argparse
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from common import table
from torch import Tensor
from torch.nn import functional

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.analysis.solution import each_error, error_by_halving, fine_plan
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.support.figures import save_image

__all__ = ["NETWORKS", "T_MAX", "T_MIN", "GalaxyNetwork", "galaxy_config", "galaxy_network"]

CACHE: Final = Path(__file__).parent / ".cache"
INSTALL: Final = "pip install --no-deps --target benchmarks/.cache galaxygrad==0.1.8"
#: The networks, with the side of their images.
NETWORKS: Final = {
    "hsc_ScoreNet32": 32, "hsc_ScoreNet64": 64, "ZTF_ScoreNet32": 32, "ZTF_ScoreNet64": 64, "quasar_lens72": 72,
}  # fmt: skip
_PATCH: Final = 4
#: The noisiest time, which the networks divide by, and the cleanest one that they are asked at: σ = 0.032.
T_MAX, T_MIN = 10.0, 1e-3
_HEAD, _BLOCK, _BLOCKS = 4, 12, 4
#: The calls of the run that stands for the solution.
FINE = 128


@final
class GalaxyNetwork(torch.nn.Module):
    """A score network of galaxygrad that predicts ε from x of shape (B, 1, H, H) and t of shape (B,), 0 < t ≤ 10.

    Attributes:
        shape: of one sample.
    """

    prediction_type = "epsilon"

    def __init__(self, arrays: list[Tensor], side: int) -> None:
        super().__init__()
        self.shape = (1, side, side)
        arrays = [array for array in arrays if array.ndim]  # the last one is the scale of the time
        for number, array in enumerate(arrays):
            self.register_buffer(f"array{number}", array)
        kernel = arrays[2].transpose(0, 1).flip(2, 3).contiguous()  # equinox correlates where PyTorch convolves
        self.register_buffer("out_kernel", kernel)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict ε, of the shape of x."""
        in_kernel, in_bias, _, out_bias = (self._array(k) for k in range(_HEAD))
        times = (t.to(x) / T_MAX).reshape(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])
        y = functional.conv2d(torch.cat([x, times], dim=1), in_kernel, in_bias.flatten(), stride=_PATCH)
        patches = y.shape[1:]
        y = y.flatten(2)
        for block in range(_BLOCKS):
            arrays = [self._array(_HEAD + _BLOCK * block + k) for k in range(_BLOCK)]
            y = y + _mixed(_normed(y, *arrays[8:10]), *arrays[:4])
            y = y.transpose(1, 2)
            y = y + _mixed(_normed(y, *arrays[10:]), *arrays[4:8])
            y = y.transpose(1, 2)
        y = _normed(y, *(self._array(_HEAD + _BLOCK * _BLOCKS + k) for k in range(2))).unflatten(2, patches[1:])
        score = functional.conv_transpose2d(y, self.out_kernel, out_bias.flatten(), stride=_PATCH)
        return -torch.sqrt(-torch.expm1(-t.to(x))).reshape(-1, 1, 1, 1) * score

    def _array(self, number: int) -> Tensor:
        found: Tensor = getattr(self, f"array{number}")
        return found


def _normed(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.layer_norm(y, y.shape[1:], weight, bias)


def _mixed(y: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor) -> Tensor:
    return functional.linear(functional.relu(functional.linear(y, weight, bias)), out_weight, out_bias)


def galaxy_network(name: str = "hsc_ScoreNet32") -> GalaxyNetwork:
    """Read a network of the installed galaxygrad; its code is not run.

    Raises:
        SystemExit: galaxygrad is not installed; the message says how to install it.
    """
    spec = find_spec("galaxygrad")
    folders = [*(spec.submodule_search_locations or () if spec else ()), str(CACHE / "galaxygrad")]
    files = [file for folder in folders if (file := Path(folder) / f"eqx_{name}.eqx").is_file()]
    if not files:
        raise SystemExit(f"eqx_{name}.eqx of galaxygrad 0.1.8 is not there. Install it: {INSTALL}")
    arrays = []
    with files[0].open("rb") as file:
        while file.peek(1):
            arrays.append(torch.from_numpy(np.asarray(np.load(file, allow_pickle=False), dtype=np.float32)))
    return GalaxyNetwork(arrays, NETWORKS[name]).eval()


def galaxy_config(**fields: object) -> NoiseSchedulerConfig:
    """The settings of the networks: α = exp(−t/2) with t from 0.001 to 10.

    β is 10 on [0, 1] in units of the longest time; the path wants a growing one, so it grows by one part in 10⁹.
    """
    options = {
        "beta_min": T_MAX * (1.0 - 1e-9), "beta_max": T_MAX, "time_scale": T_MAX, "t_min": T_MIN / T_MAX,
    }  # fmt: skip
    return NoiseSchedulerConfig(beta_schedule="vp", prediction_type="epsilon", schedule_options=options, **fields)


def noise_of(network: GalaxyNetwork, count: int, seed: int) -> Tensor:
    return NoiseSource(resolve_keys(seed, None, count), network.shape).initial()


def check(network: GalaxyNetwork, count: int) -> tuple[Tensor, str]:
    """Samples of a fine run, shape (count, 1, H, H), and the table of what the network does with them."""
    pipeline = DiffusionPipeline(galaxy_config())
    path, x = pipeline.scheduler, noise_of(network, count, 0)

    def solved(calls: int) -> Tensor:
        found: Tensor = pipeline.sample(network, initial_noise=x, plan=fine_plan(path, calls), seed=0)
        return found

    clean, coarse = solved(FINE), solved(FINE // 2)
    own = float(each_error(clean, torch.zeros_like(clean)).square().mean().sqrt())
    steps = pipeline.stream(network, initial_noise=x, plan=fine_plan(path, FINE), seed=0)
    visited = {-math.log1p(-(step.sigma**2)): step.x for step in steps if 0.0 < step.sigma < 1.0}  # by time
    rows, fresh = [], noise_of(network, count, 1)
    with torch.inference_mode():
        for t in (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
            level = path.level(t)
            noised = level.alpha * clean + level.sigma * fresh
            epsilon = network(noised, torch.full((count,), t))
            predicted = (noised - level.sigma * epsilon) / level.alpha
            near = min(visited, key=lambda time: abs(math.log(time / t)))
            at = path.level(near)
            rows.append((
                f"{t:g}", f"{level.noise_to_signal:.3f}", f"{rms(predicted - clean):.3f}",
                f"{rms(epsilon - fresh):.3f}", f"{near:.3f}", f"{rms(visited[near]):.3f}",
                f"{rms(at.alpha * clean + at.sigma * fresh):.3f}",
            ))  # fmt: skip
    head = ("t", "noise σ/α", "error of x₀", "error of ε", "t of the run", "RMS of its state", "of noised samples")
    facts = f"{count} samples, RMS {own:.3f}; error of the fine run about {error_by_halving(clean, coarse):.1e}"
    return clean, f"{facts}\n\n{table(head, rows)}"


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=NETWORKS, default="hsc_ScoreNet32")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--out", type=Path, help="a PNG of the samples")
    arguments = parser.parse_args()
    clean, facts = check(galaxy_network(arguments.name), arguments.samples)
    print(f"{arguments.name}: {facts}")
    if arguments.out is not None:
        low, high = float(clean.quantile(0.01)), float(clean.quantile(0.995))
        save_image((clean - low) / (high - low) * 2.0 - 1.0, arguments.out, 8)


if __name__ == "__main__":
    main()
