"""The samples of several noise schedules from the same initial noise."""

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BetaSchedule,
    NoiseSchedulerConfig,
    SamplingMethod,
)

system = AdvancedDiffusionSystem()
for schedule in (BetaSchedule.LINEAR, BetaSchedule.COSINE, BetaSchedule.QUADRATIC, BetaSchedule.SIGMOID):
    system.create_pipeline(schedule.value, NoiseSchedulerConfig(beta_schedule=schedule), SamplingMethod.DDPM)

results = system.compare_schedulers(shape=(2, 1, 16, 16), num_inference_steps=20, seed=0)
for name, samples in results.items():
    print(f"{name:10} mean {samples.mean().item():+.3f}, standard deviation {samples.std().item():.3f}")
