"""A system, a pipeline, samples: the first thing to try."""

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BetaSchedule,
    NoiseSchedulerConfig,
    SamplingMethod,
)

system = AdvancedDiffusionSystem()
config = NoiseSchedulerConfig(
    beta_schedule=BetaSchedule.COSINE, num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02
)
pipeline = system.create_pipeline("cosine_ddim", config, SamplingMethod.DDIM)

# Without model=..., the embedded model of handwritten digits is used.
samples = pipeline.sample(shape=(4, 1, 16, 16), num_inference_steps=50, seed=0)
print(samples.shape, "from", samples.min().item(), "to", samples.max().item())
