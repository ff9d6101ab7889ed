"""A sampler of this library inside a pipeline of Diffusers: put a PlanScheduler in place of its scheduler."""

import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler

torch.manual_seed(0)
network = UNet2DModel(
    sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
)  # fmt: skip
pipe = DDPMPipeline(network, DDIMScheduler())  # in practice: SomePipeline.from_pretrained(...)
pipe.set_progress_bar_config(disable=True)

pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, method="dpmpp_2m", timestep_spacing="kl_optimal")
images = pipe(num_inference_steps=10, generator=torch.Generator().manual_seed(0), output_type="np").images
print("images", images.shape, "made by", pipe.scheduler.plan.sampler)
