"""What a run costs on a GPU: steps, launches, captured runs, noise, memory and calibration, in at most 8 minutes.

    python benchmarks/gpu.py            # on a GPU; writes docs/gpu.json, prints tables
    python benchmarks/gpu.py --dry      # on a CPU, tiny, in a minute: whether the script works; its times mean nothing

Every figure is a median of interleaved rounds in this one process, on this one device. Parts, in order of worth:

- steps: the loop of a plan without the model against the memory bound (the bytes that a step must move, divided by the
  bandwidth of ``torch.add``) and against diffusers' ``step``; kernels launched a step by both.
- captured: the whole run of a policy network (1-D U-Net of 5 million weights, batch 1, 10 steps), of the MNIST U-Net
  and of a latent U-Net of SD-1.5's size with random weights in bfloat16: one CUDA graph, our eager loop, diffusers'.
- noise: a stochastic run with noise of the host, drawn ahead, and made on the device.
- memory: peak of a run beyond the model, in tensors, against the bound: history + 3.
- waits: a run and a replay under ``torch.cuda.set_sync_debug_mode("error")``.
- calibration: the wall time of one for the MNIST U-Net.

A part that would begin after its time is left out, and the file says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
from common import interleaved, machine, table
from step_overhead import PAIRS, our_loop, their_loop
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, calibration, models
from noise_scheduler_sampling_system.pipeline.compiled_run import _cuda_graph
from noise_scheduler_sampling_system.running.bound_plan import bind_for
from noise_scheduler_sampling_system.running.device_noise import kernel
from noise_scheduler_sampling_system.running.faults import FiniteWatch
from noise_scheduler_sampling_system.support.files import write_atomic

OUT = Path(__file__).parents[1] / "docs" / "gpu.json"
#: How a whole run is made.
WAYS = ("graph", "eager", "diffusers", "network")
#: Seconds for everything.
BUDGET = 8 * 60
STEPS = 50


@dataclass
class Bench:
    """The device, the sizes, and what was found so far."""

    device: torch.device
    dry: bool
    found: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @property
    def rounds(self) -> int:
        return 2 if self.dry else 9

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def timed(self, candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each candidate, until the device has done its work."""
        wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None

        def waited(call: Callable[[], object]) -> Callable[[], None]:
            def run() -> None:
                call()
                wait()

            return run

        with torch.no_grad():
            return interleaved(
                {name: waited(call) for name, call in candidates.items()}, self.rounds, 0.001 if self.dry else 0.05
            )

    def launches(self, call: Callable[[], object]) -> int:
        """Kernels and copies that a call puts on the device; on a CPU, operations without memory formats."""
        kinds = [ProfilerActivity.CUDA] if self.device.type == "cuda" else [ProfilerActivity.CPU]
        call()
        with torch.no_grad(), profile(activities=kinds) as record:
            call()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
        if self.device.type == "cuda":
            on_device = torch.autograd.DeviceType.CUDA
            return sum(1 for each in record.events() if each.device_type == on_device)
        return sum(1 for each in record.events() if each.cpu_parent is None)


# ------------------------------------------------------------------------------- steps


def bytes_of(plan: Any, unit: int) -> int:
    """The bytes that the steps of a plan must move: each tensor that a row reads, and each that it writes, once."""
    bound = bind_for(plan, NoiseSchedulerConfig())
    tensors = 0
    for row in bound.rows:
        reads = 1 + row.asks + len(row.history) + len(row.noise)
        tensors += reads + 1 + (row.keep and tuple(row.to_y) != (0.0, 1.0))
    return tensors * unit


def steps(bench: Bench) -> list[str]:
    shapes = [(1, 4, 16, 16)] if bench.dry else [(1, 4, 64, 64), (4, 4, 128, 128), (16, 16, 128, 128)]
    pairs = PAIRS[::7] if bench.dry else PAIRS
    rows, kept = [], []
    for shape in shapes:
        x, *outputs = (torch.randn(shape, device=bench.device) for _ in range(9))
        unit = x.numel() * x.element_size()
        floor = bench.timed({"add": partial(torch.add, x, outputs[0], alpha=0.5)})["add"]
        large = torch.randn(1 << (16 if bench.dry else 27), device=bench.device)
        bandwidth = 3 * large.numel() * 4 / bench.timed({"add": partial(torch.add, large, large, alpha=0.5)})["add"]
        del large
        for method, options, config, cls, settings, step_options in pairs:
            if bench.seconds > 0.35 * BUDGET:
                break
            pipeline = DiffusionPipeline(NoiseSchedulerConfig(**config), method, **options)
            plan = pipeline.plan(STEPS)
            theirs, calls = their_loop(cls, settings, step_options, x, outputs)
            ours = partial(our_loop, bind_for(plan, pipeline.config), x, outputs)
            seconds = bench.timed({"ours": ours, "theirs": theirs})
            bound = bytes_of(plan, unit) / bandwidth / plan.nfe
            a, b = seconds["ours"] / plan.nfe, seconds["theirs"] / calls
            name = method + "".join(f" {k}={v}" for k, v in options.items()) + (" flow" if config else "")
            counted = [bench.launches(ours) / plan.nfe, bench.launches(theirs) / calls]
            kept.append({
                "shape": shape, "sampler": name, "ours_us": a * 1e6, "diffusers_us": b * 1e6,
                "memory_bound_us": bound * 1e6, "add_us": floor * 1e6, "launches": counted[0],
                "diffusers_launches": counted[1],
            })  # fmt: skip
            rows.append([
                shape, name, f"{a * 1e6:.1f}", f"{b * 1e6:.1f}", f"{bound * 1e6:.1f}", f"{a / bound:.2f}",
                f"{b / a:.1f}", f"{counted[0]:.1f}", f"{counted[1]:.1f}",
            ])  # fmt: skip
    bench.found["steps"] = {"bandwidth_gb_s": bandwidth / 1e9, "rows": kept}
    head = [
        "shape",
        "sampler",
        "ours, µs",
        "diffusers, µs",
        "bound, µs",
        "ours/bound",
        "diffusers/ours",
        "launches",
        "theirs",
    ]
    return [f"microseconds per model call without the model; {bandwidth / 1e9:.0f} GB/s", table(head, rows)]


# ------------------------------------------------------------------------------- captured runs


class Policy(nn.Module):
    """A 1-D U-Net over a robot's actions, shape (B, actions, horizon), conditioned on an observation."""

    def __init__(self, channels: int, actions: int = 7) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))
        self.first = nn.Conv1d(actions, channels, 5, padding=2)
        self.down = nn.ModuleList([_Block(channels, channels, channels), _Block(channels, 2 * channels, channels)])
        self.middle = _Block(2 * channels, 2 * channels, channels)
        self.up = nn.ModuleList([_Block(4 * channels, channels, channels), _Block(2 * channels, channels, channels)])
        self.last = nn.Conv1d(channels, actions, 1)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0.0, -9.0, 32)), persistent=False)

    def forward(self, x: Tensor, t: Tensor, **_: Any) -> Tensor:
        angles = t.to(x.dtype)[:, None] * self.frequencies
        time_of = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        x, kept = self.first(x), []
        for block in self.down:
            x = block(x, time_of)
            kept.append(x)
            x = nn.functional.avg_pool1d(x, 2)
        x = self.middle(x, time_of)
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([x, kept.pop()], dim=1), time_of)
        return self.last(x)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(inputs, outputs, 5, padding=2), nn.Conv1d(outputs, outputs, 5, padding=2)]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(8, outputs) for _ in range(2)])
        self.shift = nn.Linear(4 * channels, outputs)
        self.skip = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, time_of: Tensor) -> Tensor:
        y = nn.functional.mish(self.norms[0](self.convolutions[0](x))) + self.shift(time_of)[:, :, None]
        return nn.functional.mish(self.norms[1](self.convolutions[1](y))) + self.skip(x)


class Latent(nn.Module):
    """A U-Net of diffusers with the text's embedding as its condition."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        answer: Tensor = self.unet(x, t, text, return_dict=False)[0]
        return answer


def latent_network(dry: bool) -> Latent:
    """Of the size of Stable Diffusion 1.5: 860 million random weights."""
    sizes: dict[str, Any] = {
        "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    if not dry:
        sizes = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
    return Latent(diffusers.UNet2DConditionModel(sample_size=64, **sizes))


@dataclass(frozen=True)
class Case:
    """A network and a run of it."""

    name: str
    network: nn.Module
    shape: tuple[int, ...]
    steps: int
    kind: str = "epsilon"
    dtype: torch.dtype = torch.float32
    condition: dict[str, Tensor] | None = None
    guidance_scale: float = 1.0


def cases(bench: Bench) -> Iterator[Case]:
    device, dry = bench.device, bench.dry
    with torch.device(device):
        torch.manual_seed(0)
        policy = Policy(16 if dry else 168).eval()
    policy.requires_grad_(False)
    yield Case("policy", policy, (1, 7, 16), 10)
    digits = models.mnist_unet().to(device)
    labels = {"class_labels": torch.zeros(1, dtype=torch.int64, device=device)}
    yield Case("mnist", digits, (1, 1, 28, 28), 3 if dry else 15, "v_prediction", condition=labels)
    with torch.device(device):
        latent = latent_network(dry).to(torch.bfloat16).eval()
    latent.requires_grad_(False)
    text = torch.randn(1, 7 if dry else 77, 32 if dry else 768, device=device, dtype=torch.bfloat16)
    shape = (1, 4, 8, 8) if dry else (1, 4, 64, 64)
    yield Case("latent", latent, shape, 2 if dry else 20, "epsilon", torch.bfloat16, {"text": text}, 7.5)


def diffusers_run(case: Case, noise: Tensor) -> Tensor:
    """The loop of a pipeline of diffusers, guidance included."""
    scheduler, guided = diffusers.DPMSolverMultistepScheduler(prediction_type=case.kind), case.guidance_scale != 1.0
    scheduler.set_timesteps(case.steps, device=noise.device)
    condition = {
        k: torch.cat([torch.zeros_like(v), v]) if guided else v for k, v in (case.condition or {}).items()
    }  # fmt: skip
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
        output = case.network(both, t.expand(len(both)), **condition)
        output = output if isinstance(output, Tensor) else output.sample
        if guided:
            null, wanted = output.chunk(2)
            output = null + case.guidance_scale * (wanted - null)
        x = scheduler.step(output, t, x).prev_sample
    return x


def captured(bench: Bench) -> list[str]:
    rows = []
    bench.found["captured"] = {}
    for case in cases(bench):
        try:
            rows.append(one_case(bench, case))
        except Exception:  # the other networks are worth having
            bench.found["captured"][case.name] = {"error": traceback.format_exc(limit=-3)}
            traceback.print_exc()
        if bench.seconds > 0.75 * BUDGET:
            break
    head = [
        "network", "weights", "calls", *(f"{way}, ms" for way in WAYS), "diffusers/graph", "eager/graph",
        "over the network", "pool, MB",
    ]  # fmt: skip
    return ["whole runs; the network alone is its calls in a CUDA graph, without a sampler", table(head, rows)]


def one_case(bench: Bench, case: Case) -> list[object]:
    """A row of the table: the run of a network in each way."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type=case.kind), "dpmpp_2m")
    guided = case.guidance_scale != 1.0
    run: dict[str, Any] = {
        "condition": case.condition, "dtype": case.dtype, "guidance_scale": case.guidance_scale,
        "classifier_free_guidance": guided,
    }  # fmt: skip
    noise = torch.randn(case.shape, device=bench.device, dtype=case.dtype)
    backend = "cuda_graph" if bench.device.type == "cuda" else "eager"
    fast = pipeline.compile(case.network, case.shape, case.steps, backend=backend, **run)
    eager = partial(pipeline.sample, case.network, num_inference_steps=case.steps, initial_noise=noise, seed=0, **run)
    theirs = partial(diffusers_run, case, noise)
    calls = {
        "graph": lambda: fast(0, initial_noise=noise), "eager": eager, "diffusers": theirs,
        "network": models_alone(case, noise, fast.plan.nfe, bench),
    }  # fmt: skip
    seconds = bench.timed(calls)
    launches = {name: bench.launches(calls[name]) / case.steps for name in ("eager", "diffusers", "network")}
    over = seconds["graph"] / seconds["network"] - 1.0
    weights = sum(p.numel() for p in case.network.parameters())
    bench.found["captured"][case.name] = {
        "weights": weights, "shape": case.shape, "calls": fast.plan.nfe, "ms": {k: v * 1e3 for k, v in seconds.items()},
        "over_network": over, "pool_mb": fast.pool_bytes / 2**20, "launches": launches,
    }  # fmt: skip
    return [
        case.name, f"{weights / 1e6:.1f} M", fast.plan.nfe, *(f"{seconds[way] * 1e3:.2f}" for way in WAYS),
        f"{seconds['diffusers'] / seconds['graph']:.2f}", f"{seconds['eager'] / seconds['graph']:.2f}", f"{over:.1%}",
        f"{fast.pool_bytes / 2**20:.0f}",
    ]  # fmt: skip


def models_alone(case: Case, noise: Tensor, calls: int, bench: Bench) -> Callable[[], object]:
    """The calls of a network and nothing else: what a run cannot be faster than."""
    copies = 2 if case.guidance_scale != 1.0 else 1
    batch = torch.cat([noise] * copies)
    told = {name: torch.cat([value] * copies) for name, value in (case.condition or {}).items()}
    times = torch.full((len(batch),), 500.0, device=bench.device)

    @torch.no_grad()
    def program() -> Tensor:
        for _ in range(calls):
            case.network(batch, times, **told)
        return batch

    return _cuda_graph(program) if bench.device.type == "cuda" else program


# ------------------------------------------------------------------------------- noise, memory, waits, calibration


def noise(bench: Bench) -> list[str]:
    shape, count = ((2, 4, 16, 16), 3) if bench.dry else ((16, 4, 128, 128), 20)
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ancestral")
    size = 32 if bench.dry else 2048
    weight = torch.randn(size, size, device=bench.device)

    def model(x: Tensor, t: Tensor) -> Tensor:
        """About a millisecond of work on a GPU."""
        torch.mm(weight, weight)
        return torch.tanh(x)

    run = partial(pipeline.sample, model, shape, count, seed=0)
    runs: dict[str, Callable[[], object]] = {
        "host": partial(run, noise_ahead=False), "host, drawn ahead": partial(run, noise_ahead=True),
    }  # fmt: skip
    if bench.device.type == "cuda" and kernel() is not None:
        runs["device"] = partial(run, noise_device="cuda")
    seconds = bench.timed(runs)
    deterministic = DiffusionPipeline(NoiseSchedulerConfig(), "euler")
    seconds |= bench.timed({"none (Euler)": partial(deterministic.sample, model, shape, count, seed=0)})
    bench.found["noise"] = {"shape": shape, "steps": count, "ms": {k: v * 1e3 for k, v in seconds.items()}}
    return [
        f"a run of {count} steps at {shape}, ms",
        table(["noise", "ms"], [[k, f"{v * 1e3:.2f}"] for k, v in seconds.items()]),
    ]


def memory(bench: Bench) -> list[str]:
    shape = (1, 4, 32, 32) if bench.dry else (8, 4, 512, 512)
    unit, rows, kept = torch.Size(shape).numel() * 4, [], {}
    for method in ("ddim", "ddpm", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "pndm"):
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(), method)
        bound = pipeline.plan(10).history + 3
        used = float("nan")
        start = torch.randn(shape, device=bench.device)
        run = partial(pipeline.sample, lambda x, t: torch.sin(x), num_inference_steps=10, initial_noise=start, seed=0)
        run()
        if bench.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run()
            used = (torch.cuda.max_memory_allocated() - before) / unit
        kept[method] = {"bound": bound, "peak": used if used == used else None}
        rows.append([method, bound, f"{used:.2f}"])
    bench.found["memory"] = kept
    return ["peak beyond the model, in tensors of the samples' size", table(["sampler", "bound", "peak"], rows)]


def waits(bench: Bench) -> list[str]:
    """Runs in which a wait for the device is an error; the final check is left out."""
    network, shape = (lambda x, t: torch.tanh(x)), (2, 4, 64, 64)
    found: dict[str, str] = {}
    ways: list[dict[str, Any]] = [{}, {"noise_device": "cuda"}] if bench.device.type == "cuda" else [{}]
    for method, way in itertools.product(("ddim", "dpmpp_3m", "unipc", "ddpm", "dpmpp_2m_sde"), ways):
        run = partial(
            DiffusionPipeline(NoiseSchedulerConfig(clip_sample=True), method).sample, network, shape, 5, seed=0, **way
        )
        run()  # the first run of a model reads its first output, and kernels are compiled
        name = " ".join([method, *way])
        try:
            with no_waits(bench), mock.patch.object(FiniteWatch, "all_finite", return_value=True):
                run()
            found[name] = "none"
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
    bench.found["waits"] = found
    return ["waits for the device before the final check", table(["run", "waits"], list(found.items()))]


@contextmanager
def no_waits(bench: Bench) -> Iterator[None]:
    if bench.device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def calibrated(bench: Bench) -> list[str]:
    digits = models.mnist_unet().to(bench.device)
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"))
    labels = {"class_labels": torch.arange(16, device=bench.device) % 10}
    size: dict[str, Any] = {"nfe": 6, "trajectories": 16, "budget_seconds": 60.0}
    if bench.dry:
        pipeline, digits, labels = DiffusionPipeline(NoiseSchedulerConfig()), None, None
        size = {"nfe": 3, "trajectories": 2, "teacher_calls": 12, "budget_seconds": 3.0}
    began = time.perf_counter()
    plan = calibration.calibrate(
        digits, pipeline, shape=(1, 8, 8) if bench.dry else (1, 28, 28), condition=labels, **size
    )
    seconds = time.perf_counter() - began
    bench.found["calibration"] = {"seconds": seconds, "nfe": plan.nfe, **size}
    return [f"a calibration of {plan.nfe} calls: {seconds:.1f} s"]


PARTS = {
    "steps": steps,
    "captured": captured,
    "noise": noise,
    "memory": memory,
    "waits": waits,
    "calibration": calibrated,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    chosen = parser.parse_args(arguments)
    if not chosen.dry and not torch.cuda.is_available():
        parser.error("no GPU is found; --dry runs tiny sizes on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(device, chosen.dry)
    logging.getLogger("noise_scheduler_sampling_system").setLevel(logging.ERROR)  # random networks look odd
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    bench.found |= {"device": name, "torch": torch.__version__, "diffusers": diffusers.__version__, "dry": chosen.dry}
    print(machine(), flush=True)
    failed = []
    for part in chosen.parts:
        if bench.seconds > 0.9 * BUDGET:
            bench.found[part] = "left out: no time"
            continue
        try:
            print(f"\n## {part}\n", *PARTS[part](bench), sep="\n", flush=True)
        except Exception:  # the other parts are worth having
            failed.append(part)
            bench.found[part] = {"error": traceback.format_exc(limit=-3)}
            traceback.print_exc()
        bench.found["seconds"] = bench.seconds
        write_atomic(chosen.out, (json.dumps(bench.found, indent=1, allow_nan=False) + "\n").encode())
    print(f"\n{bench.seconds:.0f} s; {chosen.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
