"""Samples of any shape (B, ...): actions of a policy, audio, video."""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, FlowPath

pipeline = DiffusionPipeline(FlowPath(), "adams")


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The exact prediction ε − x₀ for independent unit Gaussians, in place of a trained network."""
    t = t.reshape(-1, *[1] * (x.ndim - 1)) / 1000.0  # times run from 0 to 1000, as diffusers tells them
    return (2.0 * t - 1.0) / (t**2 + (1.0 - t) ** 2) * x


for name, shape in {"actions": (64, 16, 7), "audio": (2, 1, 4096), "video": (1, 4, 8, 16, 16)}.items():
    samples = pipeline.sample(network, shape=shape, num_inference_steps=8, seed=0)
    print(f"{name:8} {tuple(samples.shape)}: standard deviation {samples.std().item():.3f} (the data's: 1)")
