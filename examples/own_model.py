"""A network of your own: labels, guidance, and an adapter for one that is told σ and returns the clean image."""

import torch
from torch import nn

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig

torch.manual_seed(0)


class Denoiser(nn.Module):
    """Any callable (x, t, **condition) is a model. This one predicts v, and knows classes 0 to 9 and 10 for none."""

    prediction_type = "v_prediction"  # optional: a run compares it with its config, and refuses another

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.labels, self.time = nn.Embedding(11, 16), nn.Linear(1, 16)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = self.labels(labels) + self.time(t.float()[:, None] / 1000)
        return self.last(torch.relu(self.first(x) + known[:, :, None, None]))


pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), "dpmpp_2m")
result = pipeline.sample(
    Denoiser().eval(),
    shape=(4, 3, 32, 32),
    num_inference_steps=10,
    condition={"labels": torch.tensor([1, 2, 3, 4])},
    null_condition={"labels": torch.full((4,), 10)},
    guidance_scale=2.0,
    seed=0,
    return_result=True,
)
print(f"samples {tuple(result.samples.shape)}: {result.nfe} calls, {result.evaluations} evaluations with guidance")


def clean_of_sigma(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A network of another code base: x₀ + σ·ε and σ to x₀. It is perfect for data of standard deviation 0.5."""
    return noisy * 0.25 / (0.25 + sigma.reshape(-1, 1) ** 2)


# An adapter is a function. Here x = α·x₀ + σ·ε: the other network wants x/α and σ/α.
pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="sample"), "adams")


def adapted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    level = pipeline.scheduler.level(float(t[0]))
    return clean_of_sigma(x / level.alpha, torch.full((len(x),), level.noise_to_signal))


samples = pipeline.sample(adapted, shape=(2000, 4), num_inference_steps=10, seed=0)
print(f"adapted network: standard deviation {samples.std().item():.3f} (the data's: 0.5)")
