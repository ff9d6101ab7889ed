"""Guidance of a trained network: what it costs, and how many of the digits a classifier reads as asked.

The network needs diffusers.
"""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.guidance import ClassifierFree, Interval

network, judge = models.mnist_unet(), models.mnist_classifier()
pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), "unipc")
labels = torch.arange(10)

kinds = {
    "none": [],
    "scale 3": [ClassifierFree(3.0)],
    "scale 3 for σ/α from 0.1 to 10": [ClassifierFree(3.0), Interval(0.1, 10.0)],
}
for name, guidance in kinds.items():
    result = pipeline.sample(
        network, shape=(10, 1, 28, 28), num_inference_steps=6, condition={"class_labels": labels},
        guidance=guidance, seed=0, return_result=True,
    )  # fmt: skip
    with torch.no_grad():
        sure = judge(result.samples).softmax(1)[torch.arange(10), labels].mean().item()
    print(f"guidance: {name:30} {result.evaluations:2} evaluations, read as asked with probability {sure:.3f}")
