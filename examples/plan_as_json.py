"""A plan as JSON, and an engine that knows nothing of this library: 20 lines of plain Python, for any language.

plan_in_c/ is the same in C.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig

ENGINE = """
import json, sys

plan, noise = json.load(open(sys.argv[1])), json.load(sys.stdin)


def model(x, alpha, sigma):  # here your network; this one is perfect for data of standard deviation 0.5
    return [sigma * value / (alpha**2 * 0.25 + sigma**2) for value in x]


x = [plan["prior_scale"] * value for value in noise]
outputs = []
for i in range(len(plan["a"])):
    outputs.append(model(x, plan["alpha"][i], plan["sigma"][i]))
    x = [plan["a"][i] * value for value in x]
    for k, weight in enumerate(plan["b"][i]):
        if weight:
            x = [value + weight * y for value, y in zip(x, outputs[i - k])]
print(json.dumps(x))
"""

pipeline = DiffusionPipeline(
    NoiseSchedulerConfig(), "dpm_2m"
)  # its plan combines predictions of ε, as the model makes them
plan = pipeline.plan(12)
noise = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

with tempfile.TemporaryDirectory() as folder:
    plan.save(file := Path(folder, "plan.json"))
    command = [sys.executable, "-S", "-c", ENGINE, str(file)]  # -S: without any installed package
    done = subprocess.run(command, input=json.dumps(noise.tolist()), capture_output=True, text=True, check=True)
there = torch.tensor(json.loads(done.stdout), dtype=torch.float64)


def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    level = pipeline.scheduler.level(float(t[0]))
    return level.sigma * x / (level.alpha**2 * 0.25 + level.sigma**2)


here = pipeline.sample(model, initial_noise=noise[None], plan=plan, dtype=torch.float64)[0]
print(f"{plan.nfe} calls of {plan.sampler}: library and engine differ by {(here - there).abs().max().item():.1e}")
assert torch.allclose(here, there, atol=1e-6)
