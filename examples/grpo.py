"""A model of digits learns by rewards to draw threes: GRPO with the steps of Flow-GRPO, in seconds on a CPU.

The policy is the exact flow model of the 8×8 digits plus a small network. The reward of a sample is the share of threes
among the digits near it.
"""

import torch
from torch import nn

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.analysis import rollout, trajectory_log_probs

WANTED, STEPS, GROUP, CLIP = 3, 8, 96, 0.2
pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow"), "flow_grpo")
exact = models.DigitsModel(pipeline.scheduler)
images, labels = models.load_digits()


class Policy(nn.Module):
    """The velocity of the exact model, and a change of it that begins at zero."""

    def __init__(self):
        super().__init__()
        self.change = nn.Sequential(nn.Linear(65, 128), nn.SiLU(), nn.Linear(128, 64))
        nn.init.zeros_(self.change[-1].weight)
        nn.init.zeros_(self.change[-1].bias)

    def forward(self, x, t):
        time = (t / pipeline.scheduler.t_max).expand(len(x))[:, None]
        return exact(x, t) + self.change(torch.cat([x.flatten(1), time], 1)).reshape(x.shape)


def reward(samples):
    """The probability of the wanted class, if each digit of the data set is blurred by noise of size 1."""
    distances = torch.cdist(samples.flatten(1), images.flatten(1).to(samples))
    return torch.softmax(-0.5 * distances.square(), dim=1)[:, labels == WANTED].sum(1)


torch.manual_seed(0)
policy = Policy().eval()
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
for update in range(25):
    run = rollout(pipeline, policy, (GROUP, 1, 8, 8), STEPS, seed=update, store=torch.bfloat16, reduction="mean")
    rewards = reward(run.samples.float())
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    old = run.log_probs[list(run.drawn)]
    for _ in range(2):
        new = trajectory_log_probs(pipeline, policy, run.states, steps=run.drawn, reduction="mean", plan=run.plan)
        ratio = torch.exp(new - old)  # exactly 1 before the first update
        clipped = ratio.clamp(1.0 - CLIP, 1.0 + CLIP)
        loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if update % 6 == 0:
        print(f"update {update:2d}: mean reward {rewards.mean().item():.2f}")
