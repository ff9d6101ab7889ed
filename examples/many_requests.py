"""Requests of other samplers, steps and labels in one batch: each has the samples that it has alone."""

import asyncio

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.serving import Batcher

config = NoiseSchedulerConfig()
pipelines = {name: DiffusionPipeline(config, name) for name in ("ddim", "dpmpp_2m", "ancestral")}
requests = [
    {
        "pipeline": pipeline,
        "shape": (1, 1, 8, 8),
        "num_inference_steps": steps,
        "condition": {"class_labels": torch.tensor([digit])},
        "guidance_scale": 2.0,
        "seed": digit,
    }
    for digit, (steps, pipeline) in enumerate((n, each) for n in (5, 12, 30) for each in pipelines.values())
]


async def main() -> None:
    async with Batcher(pipelines["ddim"], max_batch_size=16) as batcher:
        handles = [await batcher.asubmit(**request) for request in requests]
        results = await asyncio.gather(*handles)
        metrics = batcher.metrics()
    calls = sum(request["num_inference_steps"] for request in requests)
    print(f"{metrics.finished} requests, {metrics.calls} model calls; one after the other they take {calls}")
    for request, samples in zip(requests, results, strict=True):
        alone = {name: value for name, value in request.items() if name != "pipeline"}
        assert torch.allclose(samples, request["pipeline"].sample(**alone), atol=1e-4)


asyncio.run(main())
