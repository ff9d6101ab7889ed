"""Keep the left half of an image, and draw the right half anew."""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.guidance import KnownRegion

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m")
model = models.DigitsModel(pipeline.scheduler)
image = model.sample_data(1, (1, 8, 8), generator=2).float().expand(4, 1, 8, 8)
mask = torch.zeros(1, 1, 8, 8)
mask[..., 4:] = 1.0  # 1 where the image is to be made anew

samples = pipeline.sample(model, shape=image.shape, num_inference_steps=30, guidance=KnownRegion(image, mask), seed=0)
known = (samples - image)[..., :4].abs().max().item()
print(f"the left half differs by {known:.1e}; the right halves differ by {samples[..., 4:].std(0).mean().item():.3f}")
