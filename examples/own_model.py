"""Train a network with ``add_noise`` and ``target``, then sample from it: points on a ring."""

import math

import torch
from torch import nn

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig

torch.manual_seed(0)
pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine", prediction_type="v_prediction"), "dpmpp_2m")
scheduler = pipeline.scheduler


class Network(nn.Module):
    """Points (B, 2) and times (B,) ↦ predictions (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        phase = t.float()[:, None] / scheduler.num_train_timesteps * torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi / 2
        return self.layers(torch.cat([x, phase.sin(), phase.cos()], dim=1))


network = Network()
optimizer = torch.optim.Adam(network.parameters(), 2e-3)
for _ in range(800):
    angle = 2.0 * math.pi * torch.rand(256)
    clean = torch.stack([angle.cos(), angle.sin()], dim=1)
    noise, t = torch.randn_like(clean), torch.randint(0, scheduler.num_train_timesteps, (256,))
    prediction = network(scheduler.add_noise(clean, noise, t), t)
    loss = (prediction - scheduler.target(clean, noise, t)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

samples = pipeline.sample(network.eval(), shape=(512, 2), num_inference_steps=20, seed=0)
radius = samples.norm(dim=1)
print(f"loss {loss.item():.3f}; radius {radius.mean().item():.3f} ± {radius.std().item():.3f} (the data's: 1)")
assert abs(radius.mean().item() - 1.0) < 0.1
