"""Keep the left half of an image, and draw the right half anew, in four ways."""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.guidance import KnownRegion

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m")
model = models.DigitsModel(pipeline.scheduler)
image = model.sample_data(1, (1, 8, 8), generator=2).float().expand(4, 1, 8, 8)
mask = torch.zeros(1, 1, 8, 8)
mask[..., 4:] = 1.0  # 1 where the image is to be made anew

samples = pipeline.sample(model, shape=image.shape, num_inference_steps=30, guidance=KnownRegion(image, mask), seed=0)


def drawn(picture: torch.Tensor) -> list[str]:
    """Eight lines of eight characters: the darker, the more ink."""
    return ["".join(" .:*#@"[round(5 * float(v.clamp(-1, 1) + 1) / 2)] * 2 for v in row) for row in picture[0]]


print("   ".join(title.ljust(16) for title in ("the image", "new right halves")))
for lines in zip(drawn(image[0]), *(drawn(sample) for sample in samples), strict=True):
    print("   ".join(lines))
print(f"the left halves differ by {(samples - image)[..., :4].abs().max().item():.1e} from the image")
