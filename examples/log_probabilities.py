"""The log-probability of every step of a stochastic run, as policy gradients need it."""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.analysis import trajectory_log_probs

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ancestral")
model = models.DigitsModel(pipeline.scheduler)  # in practice a network, whose weights have gradients
plan = pipeline.plan(10)

start = plan.prior_scale * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
states = [start, *(step.x for step in pipeline.stream(model, initial_sample=start, plan=plan, seed=0))]
log_probs = trajectory_log_probs(pipeline, model, states)
print("shape (steps, samples):", tuple(log_probs.shape))
print("sum over the steps, for each sample:", [round(value, 1) for value in log_probs[:-1].sum(0).tolist()])
