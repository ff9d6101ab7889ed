"""Write the table behind ``recommend``: the best deterministic samplers and spacings by schedule and model calls.

    python benchmarks/recommendations.py [--quick]

Error: RMS per pixel to the exact solution for the digits at two bandwidths (0.15, 0.3), 32 starts,
from the noisiest level to clean; entries are ranked by the geometric mean over the two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import table
from measure import final_error, run_plan

from noise_scheduler_sampling_system import ConfigurationError, NumericsError, SamplerFactory
from noise_scheduler_sampling_system.analysis.recommend import steps_within
from noise_scheduler_sampling_system.models import DigitsModel
from noise_scheduler_sampling_system.schedules.factory import NoiseSchedulerFactory

OUT = Path(__file__).parents[1] / "src" / "noise_scheduler_sampling_system" / "data" / "recommendations.json"
FAMILIES = ("linear", "cosine", "edm", "flow")
NFES = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50)
KEPT = 16
SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    ("euler", {}),
    *[("adams", {"order": order}) for order in (2, 3, 4)],
    *[("ipndm", {"order": order}) for order in (2, 3)],
    *[("unipc", {"order": order, "predict_x0": x0}) for order in (2, 3) for x0 in (True, False)],
    *[("deis", {"order": order, "polynomial": p}) for order in (2, 3) for p in ("t", "log_rho")],
    ("dpmpp_2m", {}), ("dpmpp_2m", {"solver_type": "exact"}), ("dpmpp_3m", {}), ("dpm_2m", {}), ("lms", {}),
    ("pndm", {}),
    ("runge_kutta", {"frame": "flow", "tableau": "kutta3"}), ("runge_kutta", {"frame": "flow", "tableau": "rk4"}),
]  # fmt: skip
SPACINGS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in (
        "trailing", "linspace", "leading_dpm", "sgm_uniform", "karras", "exponential", "log_snr", "beta", "kl_optimal",
        "ays", "vp",
    )],
    ("karras", {"rho": 3.0}), ("polyexponential", {"rho": 0.7}), ("beta", {"a": 0.5, "b": 0.7}),
    ("leading_dpm", {"end": "lowest"}), ("kl_optimal", {"end": "lowest"}), ("karras", {"end": "lowest"}),
]  # fmt: skip


def measure(family: str, nfe: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    path = NoiseSchedulerFactory.create(family)
    problems = []
    for bandwidth in (0.15, 0.3):
        model = DigitsModel(path, "v_prediction", bandwidth=bandwidth)
        x = torch.randn(32, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(17))
        x = x * path.prior_std
        problems.append((model, x, model.reference_solution(x)))
    entries = []
    for (name, options), (spacing, chosen), afs in itertools.product(SAMPLERS, SPACINGS, (False, True)):
        try:
            sampler = SamplerFactory.create(name, path.spaced(spacing, chosen), **options, afs=afs)
            plan = sampler.plan(steps_within(sampler, nfe))
            if plan.nfe < nfe - 1:
                continue
            top = path.level(path.t_max)
            scale = plan.prior_scale / math.hypot(top.alpha, top.sigma)
            errors = [final_error(run_plan(plan, model, x * scale), exact) for model, x, exact in problems]
        except (ConfigurationError, NumericsError):
            continue
        if all(map(math.isfinite, errors)):
            entries.append({
                "sampler": name, "options": options | ({"afs": True} if afs else {}), "spacing": spacing,
                "spacing_options": chosen, "error": float(f"{math.prod(errors) ** (1 / len(errors)):.4g}"),
            })  # fmt: skip
    return sorted(entries, key=lambda e: e["error"])[:KEPT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three numbers of calls, and nothing is written")
    nfes = (5, 10, 20) if parser.parse_args().quick else NFES
    cases = list(itertools.product(FAMILIES, nfes))
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(cases, pool.map(measure, *zip(*cases, strict=True)), strict=True))
    entries = {family: {str(nfe): found[family, nfe] for nfe in nfes} for family in FAMILIES}
    rows = [
        [family, nfe, f"{e['sampler']} {e['options'] or ''} {e['spacing']} {e['spacing_options'] or ''}", e["error"]]
        for (family, nfe), best in found.items()
        for e in best[:1]
    ]
    print(table(["schedule", "calls", "best", "error"], rows))
    if nfes is NFES:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps({"made by": "benchmarks/recommendations.py", "entries": entries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
