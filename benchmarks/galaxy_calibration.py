"""What calibrate() brings on a second trained network: the galaxies of ``benchmarks/galaxy_network.py``.

    python benchmarks/galaxy_calibration.py [--nfe 5 8] [--trajectories 64] [--passes 60] [--seeds 2] [--out plans.json]

The network has no guidance and no classes, so a plan of N calls is a table of scalars. The opponents are all
deterministic built-in samplers on the best spacings, of which the calibration itself finds the best on held-out
noise. Then every plan and its best opponent are measured again on new noise (``verify_plan``). Errors are root mean
squares per number with their standard errors over trajectories, in brackets the medians. The samples have a root mean
square of about 0.68.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from common import machine, table
from galaxy_network import galaxy_config, galaxy_network

from noise_scheduler_sampling_system import DiffusionPipeline, calibrate
from noise_scheduler_sampling_system.calibration import verify_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", type=int, nargs="+", default=(5, 8))
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--teacher-calls", type=int, default=48)
    parser.add_argument("--passes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--name", default="hsc_ScoreNet32")
    parser.add_argument("--out", type=Path, help="write the plans of the last seed to a .json file")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    network, pipeline = galaxy_network(given.name), DiffusionPipeline(galaxy_config())
    rows: list[tuple[object, ...]] = []
    for seed in range(given.seeds):
        began = time.perf_counter()
        plans = calibrate(
            network, pipeline, shape=network.shape, nfe=given.nfe, trajectories=given.trajectories,
            teacher_calls=given.teacher_calls, passes=given.passes, seed=seed, max_batch_size=64,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if given.out is not None:
            plans.save(given.out)
        for nfe, found in verify_plan(plans, network, pipeline, seed=1000 + seed, max_batch_size=64).items():
            assert found.rival is not None
            stated = found.figures[0]
            own, best = found.measured, found.rival.measured
            rows.append((
                nfe, seed, plans[nfe].provenance["kind"], f"{stated.stated:.3g} ± {stated.stated_error:.2g}",
                f"{own.rms:.3g} ± {own.rms_error:.2g} ({own.median:.2g})", found.rival.name,
                f"{best.rms:.3g} ({best.median:.2g})", f"{own.rms / best.rms:.2f}", f"{own.median / best.median:.2f}",
                "yes" if found.holds else "no",
            ))  # fmt: skip
            print(f"  {rows[-1]}", flush=True)
        print(f"  seed {seed}: {seconds:.0f} s", flush=True)
    head = (
        "calls", "seed", "kind", "stated, held out", "on new noise", "best built-in", "on new noise", "ratio",
        "of medians", "stated holds",
    )  # fmt: skip
    print(f"\n{given.name}, {given.trajectories} trajectories, {given.passes:g} passes; {machine()}\n")
    print(table(head, rows))


if __name__ == "__main__":
    main()
