"""A plan of five model calls for one model: fitted, and compared with the best built-in samplers on held-out noise."""

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.comparison import compare

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m")
plan = pipeline.calibrate(None, shape=(1, 8, 8), nfe=5, trajectories=128, passes=40.0, seed=0)
print(compare({"dpmpp_2m": "dpmpp_2m", "calibrated": plan}, nfe=5, shape=(64, 1, 8, 8), seed=1))
