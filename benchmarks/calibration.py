"""What calibrate() and design_plan() bring, against the best samplers there are without calibration.

    python benchmarks/calibration.py digits [--bandwidth 0.15] [--nfe 5 6 8 10] [--seeds 0 1 2] [--keep DIR]
    python benchmarks/calibration.py mnist [--path cosine]
    python benchmarks/calibration.py transfer
    python benchmarks/calibration.py seeds [--nfe 5 10]

``digits``: the exact model of digits on the linear schedule. The opponents are the best of every deterministic sampler
of diffusers and k-diffusion on each of their grids, and the best of all those with the samplers of this library,
screened on a share of the held-out noise. The "ratio of medians" takes the least median of any of them. "Elsewhere":
how many samples end nearer to the solution of another one, in brackets the error of the others. Errors of calibrated
plans are means over seeds, ratios have standard errors. ``--keep`` writes what the opponents have to a folder, and
reads it from there. ``mnist``: a kernel density of MNIST on the cosine and the flow path, with guidance 3.
``transfer``: a plan that was calibrated at guidance 3, used at others, and one of five classes, used for the other
five. ``seeds``: the errors of digits' plans on the noise they were fitted to and on new noise, for several seeds.
Errors are root mean squares per pixel on held-out noise, in brackets the medians over samples. Gaussian data is in
``benchmarks/design.py``, the trained network in ``benchmarks/masked_plans.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import machine, table
from torch import Tensor

from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    NoiseSchedulerConfig,
    PlanSet,
    SamplingPlan,
    Spectrum,
    calibrate,
    design_plan,
    models,
)
from noise_scheduler_sampling_system.analysis.solution import each_error
from noise_scheduler_sampling_system.calibration.plot import draw
from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.calibration.trajectories import Errors, errors_of
from noise_scheduler_sampling_system.calibration.trust.measurement import changed
from noise_scheduler_sampling_system.running.noise import NoiseSource, calibration_keys, resolve_keys

HELD_OUT = 4096
#: The bandwidth of the kernel density that stands for a network where there is only data; not that of the model.
SURROGATE = 0.2
#: Of the noise that everything is judged on; calibrations draw theirs from seed 0.
SEED = 12345


def noise_of(count: int, shape: Sequence[int], seed: int = SEED) -> Tensor:
    return NoiseSource(resolve_keys(seed, None, count), tuple(shape)).initial()


def figure(errors: Errors) -> str:
    return f"{errors.rms:.3g} ({errors.median:.2g})"


def teacher(pipeline: DiffusionPipeline, calls: int = 128) -> SamplingPlan:
    return DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").plan(calls)


def mean_figure(errors: Sequence[Errors]) -> str:
    """The means over seeds of root mean squares and of medians."""
    return figure(Errors(statistics.fmean(e.rms for e in errors), statistics.fmean(e.median for e in errors)))


def spread(values: Sequence[float]) -> str:
    """A mean with its standard error."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else f"{mean:.2f}"


def leaders(
    pipeline: DiffusionPipeline,
    nfe: int,
    run: Any,
    solution: Tensor,
    screens: Sequence[tuple[int, int]] = ((4, 24), (32, 6)),
    among: Sequence[str] = (),
) -> list[tuple[str, Errors]]:
    """The best built-in samplers (of those named): all on a few samples, so many of them on more, the best on all."""
    left = [b for b in baselines(pipeline.scheduler, nfe) if not among or b.name.split(",")[0].split()[0] in among]
    for count, kept in screens:
        few = slice(0, count)
        scores = {b.name: errors_of(run(b.plan, few), solution[few]) for b in left}
        left = sorted(left, key=lambda b: math.sqrt(scores[b.name].rms * scores[b.name].median))[:kept]
    everything = slice(0, len(solution))
    judged = [(b.name, errors_of(run(b.plan, everything), solution)) for b in left]
    return sorted(judged, key=lambda pair: pair[1].rms)


def elsewhere(ends: Tensor, solution: Tensor) -> str:
    """How many samples end nearer to another sample's solution than to their own, and the error of the others."""
    moved = changed(ends, solution)
    return f"{int(moved.sum())} ({errors_of(ends[~moved], solution[~moved]).rms:.2g})"


class Opponents(NamedTuple):
    """The best samplers without calibration, with as many calls.

    Attributes:
        peer: of diffusers and k-diffusion, with its spacing.
        peer_errors: its errors.
        best: of all, those of this library included.
        best_rms: its root mean square error.
        median: the least median of any of them.
        elsewhere: how many samples of the best one end elsewhere.
    """

    peer: str
    peer_errors: Errors
    best: str
    best_rms: float
    median: float
    elsewhere: str


def opponents(
    model: models.DigitsModel, x: Tensor, solution: Tensor, bandwidth: float, budgets: Sequence[int], keep: Path | None
) -> dict[int, Opponents]:
    """The opponents with each number of calls; from ``keep`` if they are there."""
    file = None if keep is None else keep / f"digits-{bandwidth:g}-{len(x)}-opponents.json"
    known = {} if file is None or not file.exists() else json.loads(file.read_text())
    found = {int(nfe): Opponents(peer, Errors(*errors), *others) for nfe, (peer, errors, *others) in known.items()}
    missing = [nfe for nfe in budgets if nfe not in found]
    if missing:
        found |= _opponents(model, x, solution, bandwidth, missing)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found))
    return found


def _opponents(
    model: models.DigitsModel, x: Tensor, solution: Tensor, bandwidth: float, budgets: Sequence[int]
) -> dict[int, Opponents]:
    import accuracy_per_nfe as all_samplers

    problem = all_samplers.Problem(f"digits {bandwidth:g}", model, x, solution)
    candidates = [*all_samplers.peers(), *all_samplers.ours(quick=True)]
    trial = all_samplers.measure(problem.first(32), [(c, n) for c in candidates for n in budgets])
    final = all_samplers.measure(problem, list(dict.fromkeys(all_samplers.best(trial, 6))))
    found: dict[int, Opponents] = {}
    for nfe in budgets:
        judged = sorted(((c, r) for c, r in final if r.nfe == nfe), key=lambda pair: pair[1].error)
        best_of, best = judged[0]
        peer_of, peer = next(pair for pair in judged if pair[1].side == "peer")
        runs = {c: c.run(problem, all_samplers.denoiser(model), nfe) for c, _ in judged}
        median = min(float(each_error(s, solution).median()) for s in runs.values() if s is not None)
        of_peer, of_best = runs[peer_of], runs[best_of]
        assert of_peer is not None
        assert of_best is not None
        found[nfe] = Opponents(
            f"{peer.candidate}, {peer.grid}", errors_of(of_peer, solution), f"{best.candidate}, {best.grid}",
            best.error, median, elsewhere(of_best, solution),
        )  # fmt: skip
    return found


def digits(
    bandwidth: float, budgets: Sequence[int], seeds: Sequence[int], keep: Path | None, plot: Path | None
) -> None:
    """Print the errors of calibrated plans of digits, and of the best samplers without calibration."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = models.DigitsModel(pipeline.scheduler, bandwidth=bandwidth)
    x = noise_of(HELD_OUT, (1, 8, 8)).double()

    def run(plan: SamplingPlan) -> Tensor:
        return pipeline.sample(model, initial_noise=x, plan=plan, dtype=torch.float64)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the opponents run in processes that are forked, which threads do not survive
    solution = run(teacher(pipeline, 192))
    others = opponents(model, x, solution, bandwidth, budgets, keep)
    torch.set_num_threads(threads)
    data = model.sample_data(1000, (1, 8, 8), generator=0)
    free = errors_of(run(without_a_call(pipeline, data, budgets[0])), solution)
    of_peer, of_best = free.rms / others[budgets[0]].peer_errors.rms, free.rms / others[budgets[0]].best_rms
    print(
        f"  {budgets[0]} calls, calibrated on the exact model of {len(data)} samples, without a call of the network: "
        f"{figure(free)}, {of_peer:.2f} of the best peer's error, {of_best:.2f} of the best of all",
        flush=True,
    )
    spectrum, rows, made = Spectrum.of(data), [], {}
    for nfe in budgets:
        plans = [in_a_minute(pipeline, model, nfe, seed) for seed in seeds]
        ends = [run(plan) for plan in plans]
        ours, them = [errors_of(end, solution) for end in ends], others[nfe]
        trained = [plan.provenance["training_error"] for plan in plans]
        design = errors_of(run(design_plan(spectrum, nfe, pipeline.scheduler, start="query")), solution)
        made[nfe] = plans[0]
        rows.append((
            nfe, them.peer, figure(them.peer_errors), mean_figure(ours),
            spread([e.rms / them.peer_errors.rms for e in ours]),
            spread([e.median / them.peer_errors.median for e in ours]), them.best,
            f"{them.best_rms:.3g} ({them.median:.2g})", them.elsewhere, figure(design),
            spread([e.rms / them.best_rms for e in ours]), spread([e.median / them.median for e in ours]),
            "; ".join(elsewhere(end, solution) for end in ends),
            spread([e.rms / t["rms"] for e, t in zip(ours, trained, strict=True)]),
            f"{statistics.fmean(plan.provenance['student_passes'] for plan in plans):.0f}",
        ))  # fmt: skip
        print(f"  {rows[-1]}", flush=True)
    head = (
        "NFE", "best peer", "error", "calibrated", "ratio", "of medians", "best, ours included", "error", "elsewhere",
        "design_plan", "calibrated's ratio", "of medians", "calibrated's elsewhere", "to training", "passes",
    )  # fmt: skip
    print(f"\ndigits, linear betas, bandwidth {bandwidth:g}, {HELD_OUT} held-out samples, seeds "
          f"{', '.join(map(str, seeds))}; {machine()}\n")  # fmt: skip
    print(table(head, rows))
    if plot is not None:
        draw(PlanSet(made), pipeline.scheduler, plot, title=f"Digits, exact model, bandwidth {bandwidth:g}")


def without_a_call(pipeline: DiffusionPipeline, data: Tensor, nfe: int) -> SamplingPlan:
    """A plan that is calibrated on the exact model of samples of the data."""
    surrogate = models.KernelDensityModel(pipeline.scheduler, data, SURROGATE)
    told = {"trajectories": 1024, "held_out": 512, "teacher_calls": 64, "passes": 100}
    return calibrate(surrogate, pipeline, shape=(1, 8, 8), nfe=nfe, **told)


#: Trajectories that a plan of digits is fitted to.
TAUGHT = 2048


def in_a_minute(pipeline: DiffusionPipeline, model: models.DigitsModel, nfe: int, seed: int = 0) -> SamplingPlan:
    """A plan of digits, made within a minute."""
    told = {"trajectories": TAUGHT, "held_out": 1024, "teacher_calls": 64, "budget_seconds": 60.0, "passes": 1e9}
    return calibrate(model, pipeline, shape=(1, 8, 8), nfe=nfe, seed=seed, **told)


def seeds(bandwidth: float, budgets: Sequence[int], count: int = 4) -> None:
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = models.DigitsModel(pipeline.scheduler, bandwidth=bandwidth)

    def solved(x: Tensor, plan: SamplingPlan) -> Tensor:
        return pipeline.sample(model, initial_noise=x, plan=plan, dtype=torch.float64)

    def errors_with(plan: SamplingPlan, x: Tensor) -> Tensor:
        return each_error(solved(x, plan), solved(x, teacher(pipeline, 192)))

    rows: list[tuple[object, ...]] = []
    for nfe in budgets:
        on_fit, on_new = [], []
        for seed in range(count):
            plan = in_a_minute(pipeline, model, nfe, seed)
            on_fit.append(errors_with(plan, NoiseSource(calibration_keys(seed, TAUGHT), (1, 8, 8)).initial().double()))
            on_new.append(errors_with(plan, noise_of(HELD_OUT, (1, 8, 8), SEED + seed).double()))
            rows.append((nfe, seed, *compared(on_fit[-1], on_new[-1])))
            print(f"  {rows[-1]}", flush=True)
        rows.append((nfe, "all", *compared(torch.cat(on_fit), torch.cat(on_new))))
    head = ("NFE", "seed", "on the noise of the fit", "on new noise", "ratio ± standard error", "of medians")
    print(f"\ndigits, bandwidth {bandwidth:g}, {TAUGHT} and {HELD_OUT} samples; {machine()}\n\n{table(head, rows)}")


def compared(on_fit: Tensor, on_new: Tensor) -> tuple[str, ...]:
    """Errors of samples with and without a part in the fit, and by how much the root mean square's ratio varies."""
    fitted, new = Errors.of(on_fit), Errors.of(on_new)
    parts = [float(each.square().var() / len(each) / each.square().mean() ** 2) for each in (on_fit, on_new)]
    ratio, deviation = new.rms / fitted.rms, 0.5 * math.sqrt(sum(parts))  # of the logarithm of the ratio
    return figure(fitted), figure(new), f"{ratio:.2f} ± {ratio * deviation:.2f}", f"{new.median / fitted.median:.2f}"


def mnist(path_name: str, budgets: Sequence[int]) -> None:
    config = {
        "cosine": NoiseSchedulerConfig(beta_schedule="cosine"),
        "flow": NoiseSchedulerConfig(beta_schedule="flow"),
    }
    pipeline = DiffusionPipeline(config[path_name], "ddim")
    images, labels = models.load_mnist("test")  # 1,000 digits: five times as fast as all
    kind = pipeline.config.prediction_type
    model = models.KernelDensityModel(pipeline.scheduler, images, 0.2, labels=labels, prediction_type=kind)
    told: dict[str, Any] = {"condition": {"class_labels": torch.arange(10)}, "guidance_scale": 3.0}
    count = 512
    x, labels = noise_of(count, (1, 28, 28)), torch.arange(count) % 10

    def run(plan: SamplingPlan, part: slice) -> Tensor:
        told_part = {**told, "condition": {"class_labels": labels[part]}}
        return pipeline.sample(model, initial_noise=x[part], plan=plan, seed=0, **told_part)

    solution = run(teacher(pipeline, 128), slice(0, count))
    began = time.perf_counter()
    plans = calibrate(
        model, pipeline, shape=(1, 28, 28), nfe=budgets, trajectories=1024, teacher_calls=64, passes=200, **told
    )
    seconds, rows = time.perf_counter() - began, []
    for nfe in budgets:
        ranked = leaders(pipeline, nfe, run, solution)
        ours, best = errors_of(run(plans[nfe], slice(0, count)), solution), ranked[0][1]
        median = min(errors.median for _, errors in ranked)
        rows.append((
            nfe, ranked[0][0], f"{best.rms:.3g} ({median:.2g})", figure(ours), f"{ours.rms / best.rms:.2f}",
            f"{ours.median / median:.2f}", f"{plans[nfe].provenance['student_passes']:.0f}",
        ))  # fmt: skip
    print(f"\nMNIST kernel density, {path_name} path, guidance 3, {count} held-out samples; {machine()}")
    print(f"all calibrated in {seconds:.0f} s\n")
    print(table(("NFE", "best built-in", "error", "calibrated", "ratio", "of medians", "passes"), rows))


def transfer(budgets: Sequence[int]) -> None:
    pipeline, count = DiffusionPipeline(NoiseSchedulerConfig(), "ddim"), 2000
    model = models.DigitsModel(pipeline.scheduler, bandwidth=0.15)
    x, all_labels, few_labels = noise_of(count, (1, 8, 8)), torch.arange(10), torch.arange(5)

    def calibrated(nfe: int, scale: float, labels: Tensor) -> SamplingPlan:
        return calibrate(
            model, pipeline, shape=(1, 8, 8), nfe=nfe, condition={"class_labels": labels}, guidance_scale=scale,
            trajectories=1024,
        )  # fmt: skip

    def runner(scale: float, labels: Tensor) -> Any:
        condition = labels[torch.arange(count) % len(labels)]

        def run(plan: SamplingPlan, part: slice) -> Tensor:
            told = {"class_labels": condition[part]}
            return pipeline.sample(
                model, initial_noise=x[part], plan=plan, condition=told, guidance_scale=scale, seed=0
            )

        return run

    everything, rows, by_class = slice(0, count), [], []
    for nfe in budgets:
        plans = {scale: calibrated(nfe, scale, all_labels) for scale in (1.0, 3.0, 7.0)}
        for scale in plans:
            run = runner(scale, all_labels)
            solution = run(teacher(pipeline), everything)
            errors = [errors_of(run(plans[at], everything), solution) for at in (3.0, scale)]
            name, best = leaders(pipeline, nfe, run, solution)[0]
            rows.append((nfe, f"{scale:g}", *map(figure, errors), f"{name}: {figure(best)}"))
        plan = calibrated(nfe, 3.0, few_labels)
        trained = plan.provenance["training_error"]
        on = []
        for labels in (few_labels, all_labels[5:]):
            run = runner(3.0, labels)
            on.append(figure(errors_of(run(plan, everything), run(teacher(pipeline), everything))))
        by_class.append((nfe, f"{trained['rms']:.3g} ({trained['median']:.2g})", *on))
        print(f"  {nfe} calls done", flush=True)
    print(f"\ndigits with class labels, bandwidth 0.15, {count} held-out samples; {machine()}\n")
    print(table(("NFE", "used at guidance", "calibrated at 3", "calibrated there", "best built-in there"), rows))
    print("\ncalibrated on the classes 0 to 4 at guidance 3\n")
    print(table(("NFE", "training noise", "new noise, classes 0 to 4", "new noise, classes 5 to 9"), by_class))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("digits", "mnist", "transfer", "seeds"))
    parser.add_argument("--nfe", type=int, nargs="+")
    parser.add_argument("--bandwidth", type=float, default=0.15)
    parser.add_argument("--path", choices=("cosine", "flow"), default="cosine")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the calibrations of digits")
    parser.add_argument("--keep", type=Path, help="a folder for what the opponents have, to go on from")
    parser.add_argument("--plot", type=Path, help="draw errors and levels of digits to a .png file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.what == "digits":
        digits(arguments.bandwidth, arguments.nfe or (5, 6, 8, 10), arguments.seeds, arguments.keep, arguments.plot)
    elif arguments.what == "mnist":
        mnist(arguments.path, arguments.nfe or (5, 8))
    elif arguments.what == "seeds":
        seeds(arguments.bandwidth, arguments.nfe or (5, 10))
    else:
        transfer(arguments.nfe or (5, 8))


if __name__ == "__main__":
    main()
