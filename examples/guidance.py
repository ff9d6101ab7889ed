"""Classifier-free guidance in an interval of noise levels: fewer evaluations, and samples that read as asked."""

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.guidance import ClassifierFree, Interval

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m")
labels = {"class_labels": torch.arange(10)}
for name, guidance in {
    "everywhere": [ClassifierFree(3.0)],
    "for σ/α from 0.3 to 3": [ClassifierFree(3.0), Interval(0.3, 3.0)],
}.items():
    result = pipeline.sample(
        shape=(10, 1, 8, 8), num_inference_steps=20, condition=labels, guidance=guidance, seed=0, return_result=True
    )
    print(f"guidance {name}: {result.nfe} calls, {result.evaluations} evaluations of the network for one sample")
