"""Train a network with ``add_noise`` and ``target``: points of three clusters, judged by the exact model."""

import math

import torch
from torch import nn
from tqdm import tqdm

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models

torch.manual_seed(0)
pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine", prediction_type="v_prediction"), "dpmpp_2m")
scheduler = pipeline.scheduler

# The data: clusters at the corners of a triangle. For them the perfect network is known in closed form.
corners = torch.tensor([[math.cos(a), math.sin(a)] for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)])
exact = models.GaussianMixtureModel(scheduler, corners, 0.04)


class Network(nn.Module):
    """Points (B, 2) and times (B,) to predictions of v (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        phase = t.float()[:, None] / scheduler.num_train_timesteps * torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi / 2
        return self.layers(torch.cat([x, phase.sin(), phase.cos()], dim=1))


network = Network()
optimizer = torch.optim.Adam(network.parameters(), 2e-3)
losses = []
for step in (bar := tqdm(range(1000), unit="step")):
    clean = corners[torch.randint(0, 3, (256,))] + 0.2 * torch.randn(256, 2)
    noise, t = torch.randn_like(clean), torch.randint(0, scheduler.num_train_timesteps, (256,))
    prediction = network(scheduler.add_noise(clean, noise, t), t)
    loss = (prediction - scheduler.target(clean, noise, t)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if step % 50 == 0:
        bar.set_postfix(loss=f"{loss.item():.3f}")
for k in range(0, 1000, 200):
    print(f"steps {k:3} to {k + 200:4}: mean loss {sum(losses[k : k + 200]) / 200:.3f}")

# The same noise through the trained network and through the perfect one.
noise = torch.randn(512, 2)
mine, perfect = (
    pipeline.sample(model, initial_noise=noise, num_inference_steps=20) for model in (network.eval(), exact)
)
share = torch.cdist(mine, corners).min(1).values.lt(0.6).float().mean().item()
print(f"{share:.0%} of the samples lie at a corner; a typical one is {(mine - perfect).norm(dim=1).median():.3f} away "
      f"from the perfect network's")  # fmt: skip
assert share > 0.8
