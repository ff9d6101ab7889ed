"""Every setting by name, and files of settings."""

import tempfile
from pathlib import Path

from noise_scheduler_sampling_system import AdvancedDiffusionSystem, BetaSchedule, NoiseSchedulerConfig

config = NoiseSchedulerConfig(
    num_train_timesteps=1000,
    beta_start=0.0001,
    beta_end=0.02,
    beta_schedule=BetaSchedule.COSINE,
    clip_sample=True,
    prediction_type="epsilon",
    thresholding=False,
    dynamic_thresholding_ratio=0.995,
    sample_max_value=1.0,
    timestep_spacing="leading",
    steps_offset=1,
    use_clipped_model_output=True,
    variance_type="fixed_small",
    clip_sample_range=1.0,
    sample_padding_threshold=0.0,
    sample_padding_norm=1.0,
)

system = AdvancedDiffusionSystem()
system.create_pipeline("cosine_ddim", config, "ddim", eta=0.3)
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "pipelines.yaml")
    system.save_config(file)
    print(file.read_text())
    again = AdvancedDiffusionSystem(file)
assert again.get_pipeline("cosine_ddim") == system.get_pipeline("cosine_ddim")
