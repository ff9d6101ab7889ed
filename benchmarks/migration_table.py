"""Write the tables of docs/migration.md and docs/diffusers.md: what diffusers' schedulers, and others' names, are here.

    python benchmarks/migration_table.py [--check]

The text before the mark of the first page is kept, and that around the marks of the second. Nothing else is written by
hand: every class is read (``integrations.diffusers.read``) as it is and with every notable setting that it accepts, and
what changes is listed. --check fails where the file is out of date.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
from common import table as padded_table

from noise_scheduler_sampling_system import ConfigurationError, NoiseSchedulerConfig
from noise_scheduler_sampling_system.config.registries import SPACINGS
from noise_scheduler_sampling_system.config.sampler_aliases import NAMES, Resolved, resolve
from noise_scheduler_sampling_system.integrations.diffusers import Reading, read
from noise_scheduler_sampling_system.integrations.diffusers.reading.diffusers_classes import scheduler_class
from noise_scheduler_sampling_system.integrations.diffusers.reading.refusals import NO_PATH, NO_TWIN

OUT = Path(__file__).parents[1] / "docs" / "migration.md"
MARK = "<!-- Made by python benchmarks/migration_table.py from here on; do not edit. -->\n"
DIFFUSERS = OUT.parent / "diffusers.md"
BEGIN = "<!-- Made by python benchmarks/migration_table.py; do not edit. -->\n"
END = "<!-- End of the made table. -->\n"

FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
DYNAMIC = {"use_dynamic_shifting": True}
#: Settings to read every class with that accepts them, by subject.
NOTABLE: dict[str, list[dict[str, Any]]] = {
    "Noise schedule": [
        *({"beta_schedule": name} for name in ("scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace")),
        {"trained_betas": [0.01, 0.02]}, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"snr_shift_scale": 1.0}, {"shift": 3.0}, DYNAMIC, FLOW_SIGMAS, FLOW_SIGMAS | DYNAMIC,
        {"invert_sigmas": True}, {"scale_factors": [0.5, 1.0]}, {"s": 0.01}, {"scaler": 2.0},
    ],
    "What the network predicts, clipping": [
        {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, {"clip_sample": True},
        {"clip_sample": False}, {"thresholding": True, "sample_max_value": 1.5}, {"variance_type": "fixed_large"},
        {"variance_type": "learned_range"}, {"clip_denoised": False}, {"timestep_type": "continuous",
        "prediction_type": "v_prediction"},
    ],
    "Levels": [
        *({"timestep_spacing": name} for name in ("leading", "linspace", "trailing")),
        {"timestep_spacing": "leading", "steps_offset": 1},
        *({f"use_{name}": True} for name in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")),
        {"use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 14.0}, {"sigma_schedule": "exponential"},
        {"final_sigmas_type": "sigma_min"}, {"set_alpha_to_one": False}, {"set_alpha_to_one": True},
        {"interpolation_type": "log_linear"}, {"lambda_min_clipped": -5.1}, {"shift_terminal": 0.1},
    ],
    "Method": [
        *({"algorithm_type": name} for name in (
            "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "noise_prediction",
        )),
        *({"solver_order": order} for order in (1, 3)),
        *({"solver_type": name} for name in ("heun", "midpoint", "bh1", "bh2")),
        {"solver_order": 3, "algorithm_type": "dpmsolver"}, {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
        {"lower_order_final": False}, {"lower_order_final": True}, {"euler_at_final": True},
        {"solver_order": 3, "euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"predict_x0": False}, {"disable_corrector": [0]}, {"disable_corrector": list(range(50))},
        {"predictor_order": 3, "corrector_order": 4}, {"corrector_order": 0}, {"skip_prk_steps": True},
        {"stochastic_sampling": True}, {"timestep_scaling": 8.0},
    ],
}  # fmt: skip
#: Labels of web interfaces, which name the spacing, too.
LABELS = (
    "Euler a", "Euler", "LMS", "LMS Karras", "Heun", "DPM2", "DPM2 Karras", "DPM2 a", "DPM2 a Karras", "DPM++ 2S a",
    "DPM++ 2S a Karras", "DPM++ 2M", "DPM++ 2M Karras", "DPM++ SDE", "DPM++ SDE Karras", "DPM++ 2M SDE",
    "DPM++ 2M SDE Karras", "DPM++ 2M SDE Exponential", "DPM++ 2M SDE Heun Karras", "DPM++ 3M SDE",
    "DPM++ 3M SDE Karras", "DPM++ 3M SDE Exponential", "DPM fast", "DPM adaptive", "DDIM", "PLMS", "UniPC", "LCM",
    "Restart",
)  # fmt: skip
#: k-diffusion's functions of sigmas, ComfyUI's "scheduler" and the flags of diffusers.
SPACING_NAMES = (
    "simple", "normal", "karras", "exponential", "polyexponential", "sgm_uniform", "ddim_uniform", "beta",
    "linear_quadratic", "kl_optimal", "laplace", "vp", "align_your_steps", "use_karras_sigmas",
    "use_exponential_sigmas", "lu_lambdas",
)  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose long cells do not widen the short ones."""
    return padded_table(head, rows, aligned=False)


def shown(values: Mapping[str, Any]) -> str:
    """Settings as they are written in a call."""
    return ", ".join(f"{name}={literal(value)}" for name, value in values.items())


def literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{value[0]}, ..., {value[-1]}]" if len(value) > 4 else str(list(value))
    return f'"{value}"' if isinstance(value, str) else str(round(value, 5) if isinstance(value, float) else value)


def call(sampler: str, options: Mapping[str, Any]) -> str:
    return f"`{sampler}`" + (f" `{shown(options)}`" if options else "")


def settings(reading: Reading) -> dict[str, Any]:
    """Fields of the config that are not their defaults."""
    usual, own = NoiseSchedulerConfig().to_dict(), reading.config.to_dict()
    return {k: v for k, v in own.items() if v != usual[k]}


def classes() -> list[str]:
    """Every scheduler of diffusers."""
    found = (name for name in dir(diffusers) if name.endswith("Scheduler") and name != "SchedulerMixin")
    return sorted(name for name in found if isinstance(getattr(diffusers, name), type))


def known() -> list[str]:
    """Those that are read."""
    return [name for name in classes() if refusal({"_class_name": name}) is None]


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why a config is not read, or None."""
    try:
        read(config)
    except ConfigurationError as error:
        return error.what.partition("is not read: ")[2] or error.why or error.what
    return None


def meant(reading: Reading) -> str:
    """The sampler, or what there is in its place."""
    if reading.sampler is not None:
        return call(reading.sampler, reading.options)
    return f"{'traced' if reading.traceable else 'none'}: {reading.refusal}"


def classes_section() -> str:
    rows = []
    for name in known():
        reading = read({"_class_name": name})
        notes = "; ".join(reading.notes)
        rows.append([f"`{name}`", meant(reading), f"`{shown(settings(reading))}`" if settings(reading) else "", notes])
    refused = [[f"`{name}`", why.reason, why.instead] for name, why in sorted(NO_PATH.items())]
    return (
        "## Classes of diffusers, with their defaults\n\n"
        + table(["class", "sampler", "settings that are not `NoiseSchedulerConfig`'s defaults", "notes"], rows)
        + "\n\nNot read, with the reason:\n\n" + table(["class", "reason", "instead"], refused) + "\n\n"
    )  # fmt: skip


def accepted(name: str, flags: Mapping[str, Any]) -> bool:
    """Whether a class can be made with these, and they are not its defaults."""
    fields = read({"_class_name": name}).fields
    if not set(flags) <= set(fields) or all(fields[k] == v for k, v in flags.items()):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scheduler_class(name)(**flags)
        except Exception:  # each class refuses in its own way
            return False
    return True


def change(name: str, flags: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a class's flags change: sampler, settings, notes."""
    config = {"_class_name": name, **flags}
    why = refusal(config)
    if why is not None:
        return "refused", "", why
    before, after = read({"_class_name": name}), read(config)
    same = (before.sampler, before.options) == (after.sampler, after.options)
    was, usual = before.config.to_dict(), after.config.to_dict()
    changed = {k: v for k, v in usual.items() if v != was[k]}
    if set(changed) & {"clip_sample", "thresholding"}:
        changed.pop("use_clipped_model_output", None)  # which follows
    if changed.get("beta_schedule", "linear") not in ("linear", "scaled_linear", "sigmoid"):
        changed = {k: v for k, v in changed.items() if k not in ("beta_start", "beta_end")}  # which it does not read
    notes = [note for note in after.notes if note not in before.notes]
    if after.terms.preconditioning != before.terms.preconditioning:
        notes.append("another sign in EDM's conversion, which `PlanScheduler` does")
    if after.needs_mu:
        notes.append("give `mu`, or `PlanScheduler` takes the pipeline's")
    return "" if same else meant(after), f"`{shown(changed)}`" if changed else "", "; ".join(notes)


def flags_section() -> str:
    parts = [
        "## Settings of diffusers\n\nEvery class was read with each of these settings that it accepts, and the tables "
        "list what changes. A class is missing in a row if it does not have the setting, or if its numbers do not "
        "depend on it. A traced class follows all of its own settings.\n\n"
    ]
    for subject, all_flags in NOTABLE.items():
        rows = []
        for flags in all_flags:
            groups: dict[tuple[str, str, str], list[str]] = {}
            for name in known():
                if accepted(name, flags):
                    groups.setdefault(change(name, flags), []).append(name.removesuffix("Scheduler"))
            rows += [[f"`{shown(flags)}`", ", ".join(names), *what] for what, names in groups.items() if any(what)]
        parts.append(f"### {subject}\n\n" + table(["theirs", "classes", "sampler", "settings", "notes"], rows) + "\n\n")
    return "".join(parts)


def spaced(found: Resolved) -> str:
    options = f"`{shown(found.spacing_options)}`" if found.spacing_options else ""
    return " ".join(part for part in (f"`{found.spacing}`" if found.spacing else "", options) if part)


def names_section() -> str:
    theirs = [name for name in NAMES if not hasattr(diffusers, name)]
    of_names = [[f"`{name}`", call(NAMES[name].sampler, NAMES[name].options), spaced(NAMES[name])] for name in theirs]
    of_labels = [
        [label, call(resolve(label).sampler, resolve(label).options), spaced(resolve(label))] for label in LABELS
    ]
    of_spacings = [[f"`{name}`", f"`{SPACINGS.canonical(name)}`"] for name in SPACING_NAMES]
    return (
        "## Names of k-diffusion, ComfyUI and others\n\nThese names are accepted wherever a sampler's name is. Case, "
        "spaces and punctuation are ignored.\n\n" + table(["theirs", "sampler", "spacing"], of_names)
        + "\n\n## Labels of web interfaces\n\n" + table(["label", "sampler", "spacing"], of_labels)
        + "\n\n## Names of spacings\n\nk-diffusion's `get_sigmas_...` and ComfyUI's `scheduler`. How their numbers "
        "differ: [paths and grids](paths-and-grids.md#where-other-libraries-grids-differ).\n\n"
        + table(["theirs", "`timestep_spacing`"], of_spacings) + "\n"
    )  # fmt: skip


def replacement(name: str) -> list[str]:
    """A class, what runs in its place, and where nothing does: why not, and what to do instead."""
    refused = {**NO_PATH, **NO_TWIN}.get(name)
    if refused is not None:
        return [f"`{name}`", "refused", refused.reason, refused.instead]
    reading = read({"_class_name": name})
    return [f"`{name}`", "its traced plan" if reading.sampler is None else f"`{reading.sampler}`", "", ""]


def written_diffusers() -> str:
    """docs/diffusers.md with the table of all classes."""
    head, _, rest = DIFFUSERS.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        sys.exit(f"{DIFFUSERS.name} has lost the line {BEGIN!r} or {END!r}")
    rows = [replacement(name) for name in sorted({*classes(), *NO_PATH})]
    return head + BEGIN + "\n" + table(["class", "`PlanScheduler`", "why not", "instead"], rows) + "\n\n" + END + tail


def written() -> str:
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    head, mark, _ = OUT.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        sys.exit(f"{OUT.name} has lost the line {MARK!r}")
    return head + MARK + "\n" + classes_section() + flags_section() + names_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page, text in ((OUT, written()), (DIFFUSERS, written_diffusers())):
        if not check:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {page}")
        elif page.read_text(encoding="utf-8") != text:
            sys.exit(f"{page.name} is out of date: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
