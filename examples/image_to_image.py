"""Start from an image: noise it to a level, and run from there."""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models, start_at

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m")
model = models.DigitsModel(pipeline.scheduler)
labels = {"class_labels": torch.tensor([3])}
image = model.sample_data(1, (1, 8, 8), generator=0, **labels).float()

for strength in (0.2, 0.5, 0.9):
    start = start_at(pipeline.scheduler, strength=strength)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    noised = pipeline.scheduler.add_noise(image, noise, start.t)
    changed = pipeline.sample(
        model, num_inference_steps=20, initial_sample=noised, strength=strength, condition=labels, seed=0,
        guidance_scale=1.0,
    )  # fmt: skip
    print(f"strength {strength}: the image changes by {(changed - image).square().mean().sqrt().item():.3f}")
