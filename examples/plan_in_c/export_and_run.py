"""Compile a plan here, run it in C: the plan is all that the other language needs."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig

pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "dpm_2m")  # its plan combines predictions of ε
plan = pipeline.plan(12)
assert plan.space == "epsilon"
assert not plan.stochastic
noise = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

words = [len(plan), plan.b.shape[1], len(noise), plan.prior_scale]
for i in range(len(plan)):
    words += [plan.time[i], plan.alpha[i], plan.sigma[i], plan.a[i], *plan.b[i]]
words += noise.tolist()


def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    level = pipeline.scheduler.level(float(t[0]))
    return level.sigma * x / (level.alpha**2 * 0.25 + level.sigma**2)


here = pipeline.sample(model, initial_noise=noise[None], plan=plan, dtype=torch.float64)[0]
if shutil.which("cc") is None:
    print("there is no C compiler; the samples here:", here)
else:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "runner")
        subprocess.run(["cc", "-O2", "-o", binary, Path(__file__).with_name("runner.c")], check=True)
        output = subprocess.run([binary], input=" ".join(map(str, words)), capture_output=True, text=True, check=True)
    there = torch.tensor([float(line) for line in output.stdout.split()], dtype=torch.float64)
    print(f"Python and C differ by {(here - there).abs().max().item():.1e}")
    assert torch.allclose(here, there, atol=1e-6)
