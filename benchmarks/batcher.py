"""A Poisson stream of unequal requests on the MNIST U-Net: the batcher against batches that run to completion.

    python benchmarks/batcher.py [--requests 120] [--batch 16] [--load 1.3] [--threads 1] [--quick]

Each request wants one digit, by its own sampler, number of steps (4 to 50) and seed. All contenders get the same
requests at the same times, the same network and the same largest batch:

- batcher: ``Batcher``. Requests join and leave at every model call.
- fixed: takes up to B waiting requests, and runs them together until the longest ends. The batch keeps its size, as a
  compiled or captured network demands.
- shrinking: the same, but the rows of requests that ended are dropped from the calls.
- equal plans: ``pipeline.sample`` for up to B waiting requests that have the same sampler and number of steps.

fixed and shrinking batch unequal requests, which they can do only because their engine is the batcher's: the comparison
is about when requests may join. The offered load is a share of what full batches could serve.
"""

from __future__ import annotations

import argparse
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import machine, table

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.models.mnist import mnist_unet
from noise_scheduler_sampling_system.serving import Batcher, Latency

SAMPLERS = ("ddim", "dpmpp_2m", "ancestral")
STEPS = (4, 50)


@dataclass(frozen=True)
class Wish:
    """A request: when it comes, and what it wants."""

    at: float
    sampler: str
    steps: int
    label: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a contender did: latencies in seconds, the time until the last result, samples, and rows of its calls.

    ``cpu`` is the processor time of the whole process, which other programs on the machine disturb least.
    """

    latencies: list[float]
    seconds: float
    cpu: float
    samples: list[torch.Tensor]
    calls: int
    rows: int


class Counting:
    """The network with a count of its calls; ``size`` pads each call to this number of rows."""

    def __init__(self, network: Any) -> None:
        self.network, self.calls, self.rows, self.size = network, 0, 0, 0
        self.cpu = time.process_time()

    def __call__(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        count = len(x)
        if missing := max(self.size - count, 0):
            x, t, class_labels = (
                torch.cat([each, each[:1].repeat(missing, *[1] * (each.ndim - 1))]) for each in (x, t, class_labels)
            )
        self.calls, self.rows = self.calls + 1, self.rows + count
        output: torch.Tensor = self.network(x, t, class_labels=class_labels).sample[:count]
        return output


class Setting:
    """The pipelines and the network that all contenders use."""

    def __init__(self) -> None:
        config = NoiseSchedulerConfig(prediction_type="v_prediction")
        self.pipelines = {name: DiffusionPipeline(config, name) for name in SAMPLERS}
        self.network = mnist_unet()

    def arguments(self, wishes: Sequence[Wish], model: Any) -> dict[str, Any]:
        """The keywords of ``sample`` for wishes of one plan."""
        return {
            "model": model,
            "shape": (len(wishes), 1, 28, 28),
            "num_inference_steps": wishes[0].steps,
            "condition": {"class_labels": torch.tensor([wish.label for wish in wishes])},
            "classifier_free_guidance": False,
            "seed": [wish.seed for wish in wishes],
        }


def in_time(wishes: Sequence[Wish], take: Callable[[int, Wish], None]) -> float:
    """Hand over each request at its time; returns when the first one was due."""
    began = time.perf_counter() + 0.05
    for i, wish in enumerate(wishes):
        time.sleep(max(began + wish.at - time.perf_counter(), 0.0))
        take(i, wish)
    return began


def run_batcher(setting: Setting, wishes: Sequence[Wish], batch: int) -> Outcome:
    model = Counting(setting.network)
    ended: dict[int, float] = {}
    handles: list[Any] = []

    def take(i: int, wish: Wish) -> None:
        handle = batcher.submit(pipeline=setting.pipelines[wish.sampler], **setting.arguments([wish], model))
        handle.add_done_callback(lambda _: ended.update({i: time.perf_counter()}))
        handles.append(handle)

    with Batcher(next(iter(setting.pipelines.values())), batch) as batcher:
        began = in_time(wishes, take)
        samples = [handle.result() for handle in handles]
    return outcome(wishes, began, ended, samples, model)


def run_to_completion(setting: Setting, wishes: Sequence[Wish], batch: int, *, kind: str) -> Outcome:
    model = Counting(setting.network)
    ended: dict[int, float] = {}
    samples: dict[int, torch.Tensor] = {}
    waiting: list[tuple[int, Wish]] = []
    arrived: queue.SimpleQueue[tuple[int, Wish]] = queue.SimpleQueue()

    def together(chosen: Sequence[tuple[int, Wish]]) -> Sequence[torch.Tensor]:
        if kind == "equal plans":
            wish = chosen[0][1]
            arguments = setting.arguments([each for _, each in chosen], model)
            return setting.pipelines[wish.sampler].sample(**arguments).split(1)
        model.size = len(chosen) if kind == "fixed" else 0
        handles = [
            engine.submit(pipeline=setting.pipelines[wish.sampler], **setting.arguments([wish], model))
            for _, wish in chosen
        ]
        return [handle.result() for handle in handles]

    def serve() -> None:
        while len(samples) < len(wishes):
            if not waiting:
                waiting.append(arrived.get())
            while not arrived.empty():
                waiting.append(arrived.get())
            first = waiting[0][1]
            fits = [
                each
                for each in waiting
                if kind != "equal plans" or (each[1].sampler, each[1].steps) == (first.sampler, first.steps)
            ][:batch]
            waiting[:] = [each for each in waiting if each not in fits]
            results = together(fits)
            now = time.perf_counter()
            for (i, _), result in zip(fits, results, strict=True):
                samples[i], ended[i] = result, now

    with Batcher(next(iter(setting.pipelines.values())), batch) as engine:
        server = threading.Thread(target=serve)
        server.start()
        began = in_time(wishes, lambda i, wish: arrived.put((i, wish)))
        server.join()
    return outcome(wishes, began, ended, [samples[i] for i in range(len(wishes))], model)


def outcome(
    wishes: Sequence[Wish], began: float, ended: dict[int, float], samples: list[torch.Tensor], model: Counting
) -> Outcome:
    latencies = [ended[i] - began - wish.at for i, wish in enumerate(wishes)]
    return Outcome(
        latencies, max(ended.values()) - began, time.process_time() - model.cpu, samples, model.calls, model.rows
    )


def row_seconds(setting: Setting, batch: int) -> float:
    """The time of a row in a full batch."""
    x, t, labels = torch.randn(batch, 1, 28, 28), torch.full((batch,), 500.0), torch.zeros(batch, dtype=torch.long)
    times = []
    with torch.no_grad():
        for _ in range(5):
            began = time.perf_counter()
            setting.network(x, t, class_labels=labels)
            times.append(time.perf_counter() - began)
    return min(times) / batch


def stream(count: int, seconds_between: float) -> list[Wish]:
    """A Poisson stream of requests."""
    generator = torch.Generator().manual_seed(0)
    gaps = torch.empty(count).exponential_(1.0, generator=generator) * seconds_between
    steps = torch.randint(STEPS[0], STEPS[1] + 1, (count,), generator=generator).tolist()
    kinds = torch.randint(len(SAMPLERS), (count,), generator=generator).tolist()
    labels = torch.randint(10, (count,), generator=generator).tolist()
    return [
        Wish(at, SAMPLERS[kind], n, label, i)
        for i, (at, kind, n, label) in enumerate(zip(gaps.cumsum(0).tolist(), kinds, steps, labels, strict=True))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--load", type=float, default=1.3, help="offered load, as a share of what full batches serve")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="40 requests, batches of 8")
    options = parser.parse_args()
    count, batch = (40, 8) if options.quick else (options.requests, options.batch)
    torch.set_num_threads(options.threads)
    setting = Setting()
    between = row_seconds(setting, batch) * sum(STEPS) / 2 / options.load
    wishes = stream(count, between)
    contenders: dict[str, Callable[[], Outcome]] = {
        "batcher": lambda: run_batcher(setting, wishes, batch),
        "fixed": lambda: run_to_completion(setting, wishes, batch, kind="fixed"),
        "shrinking": lambda: run_to_completion(setting, wishes, batch, kind="shrinking"),
        "equal plans": lambda: run_to_completion(setting, wishes, batch, kind="equal plans"),
    }
    done = {name: run() for name, run in contenders.items()}
    ours = done["batcher"]
    rows = []
    for name, each in done.items():
        latency, mine = Latency.of(each.latencies), Latency.of(ours.latencies)
        off = max((a - b).abs().max().item() for a, b in zip(each.samples, ours.samples, strict=True))
        rows.append(
            [
                name, f"{count / each.seconds:.2f}", f"{each.seconds / ours.seconds:.2f}",
                f"{each.cpu / count:.2f}", f"{each.cpu / ours.cpu:.2f}",
                f"{latency.p50:.2f}", f"{latency.p95:.2f}", f"{mine.p95 / latency.p95:.2f}",
                str(each.calls), f"{each.rows / each.calls:.1f}", f"{off:.0e}",
            ]
        )  # fmt: skip
        assert math.isfinite(off)
    print(machine())
    print(f"{count} requests of {STEPS[0]} to {STEPS[1]} steps, one every {between:.2f} s, batches of {batch}")
    print(
        table(
            [
                "",
                "requests/s",
                "batcher faster by",
                "CPU s/request",
                "batcher less by",
                "p50 s",
                "p95 s",
                "batcher's p95 / this",
                "calls",
                "rows",
                "differs",
            ],
            rows,
        )
    )


if __name__ == "__main__":
    main()
