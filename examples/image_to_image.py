"""Start from an image: noise it to a level, and run from there."""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models, start_at

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m")
model = models.DigitsModel(pipeline.scheduler)
three = model.sample_data(1, (1, 8, 8), generator=0, class_labels=torch.tensor([3])).float()
eight = {"class_labels": torch.tensor([8])}  # make an eight of it


def drawn(image: torch.Tensor) -> list[str]:
    """Eight lines of eight characters: the darker, the more ink."""
    return ["".join(" .:*#@"[round(5 * float(v.clamp(-1, 1) + 1) / 2)] * 2 for v in row) for row in image[0, 0]]


pictures, titles = [drawn(three)], ["the image"]
for strength in (0.3, 0.6, 0.9):  # the share of the run that is done: how far the image may change
    start = start_at(pipeline.scheduler, strength=strength)
    noise = torch.randn(three.shape, generator=torch.Generator().manual_seed(1))
    noised = pipeline.scheduler.add_noise(three, noise, start.t)
    changed = pipeline.sample(
        model, num_inference_steps=20, initial_sample=noised, strength=strength, condition=eight, seed=0,
        guidance_scale=1.0,
    )  # fmt: skip
    pictures.append(drawn(changed))
    titles.append(f"strength {strength}")

print("   ".join(title.ljust(16) for title in titles))
for lines in zip(*pictures, strict=True):
    print("   ".join(lines))
