"""The commands ``plan show``, ``diff``, ``trace``, ``export`` and ``verify``: the table of a sampler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...support.errors import ConfigurationError
from .. import completion
from ..default_command import ShowByDefault
from ..options import PlanEvaluations, Preset, SamplerOptions, Schedule, ScheduleOptions, Spacing, SpacingOptions, Steps
from ..output import Json, Output, Quiet
from ..parsing import check_output, integers, key_values, settings_of
from ..pipelines import pipeline_of
from ..plans import PLAN_ENDINGS, chosen_plans, in_file, plan_of, refuse_beside_plan
from .plan_verify import verify

if TYPE_CHECKING:
    from ...plans.plan import SamplingPlan

__all__ = ["diff", "export", "plan_app", "show", "trace"]

plan_app = typer.Typer(
    cls=ShowByDefault,
    no_args_is_help=True,
    help="The table that a sampler follows: print, compare, trace, export, verify. 'plan heun' is 'plan show heun'.",
)
plan_app.command()(verify)

#: More rows than any plan is printed with.
_ALL = 1_000_000

Named = Annotated[
    str,
    typer.Argument(
        help="A sampler's name, or the .json or .safetensors file of a plan.",
        autocompletion=completion.samplers_or_files,
    ),
]
Calls = Annotated[int | None, typer.Option("--nfe", help="Of a file with several plans: the one with N model calls.")]


@plan_app.command()
def show(
    method: Named,
    steps: Steps = 50,
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    option: SamplerOptions = None,
    nfe: Calls = None,
    evaluations: PlanEvaluations = None,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this .json or .safetensors file.")] = None,
    every_row: Annotated[bool, typer.Option("--all", help="Print every row, also of a long plan.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the table that a sampler follows."""
    if save is not None:
        check_output(save, *PLAN_ENDINGS)
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option)
    plan = plan_of(method, steps, settings, option, nfe, evaluations)
    output = Output(as_json, quiet)
    output.result(plan.to_dict())
    _print(plan, output, _ALL if every_row else None)
    if save is not None:
        plan.save(save)
        output.say(f"wrote {save}")


@plan_app.command()
def diff(
    one: Named,
    other: Named,
    steps: Steps = 50,
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    nfe: Calls = None,
    evaluations: PlanEvaluations = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say in words and numbers how two plans differ. The options hold for both, if both are samplers."""
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option)
    # the settings are those of samplers, and the number of calls is that of a file
    plans = [
        plan_of(name, steps, {}, None, nfe, evaluations) if in_file(name) else plan_of(name, steps, settings, None)
        for name in (one, other)
    ]
    found = plans[0].diff(plans[1])
    output = Output(as_json, quiet)
    output.result({
        "differs": bool(found), "same_numbers": found.same_numbers, "counts": found.counts,
        "settings": [[name, str(a), str(b)] for name, a, b in found.settings], "levels": found.levels,
        "log_snr": found.log_snr, "coefficients": found.coefficients, "noise": found.noise, "moments": found.moments,
    })  # fmt: skip
    output.say(str(found))


@plan_app.command()
def trace(
    scheduler: Annotated[
        str,
        typer.Argument(
            help="A class of diffusers, module:attribute (an object, a class or a function that returns one), or a "
            "folder with scheduler_config.json."
        ),
    ],
    steps: Steps = 50,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="Of a class: a setting, e.g. use_karras_sigmas=true; repeatable."),
    ] = None,
    run_option: Annotated[
        list[str] | None,
        typer.Option("--run-option", help="For its set_timesteps or step, e.g. eta=0.5; repeatable."),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this .json or .safetensors file.")] = None,
    every_row: Annotated[bool, typer.Option("--all", help="Print every row, also of a long plan.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read the plan off another library's scheduler, by one run of its own loop on symbols."""
    from ...integrations.named_schedulers import named_scheduler
    from ...plans.plan import SamplingPlan

    if save is not None:
        check_output(save, *PLAN_ENDINGS)
    plan = SamplingPlan.trace(
        named_scheduler(scheduler, key_values(option or [])), steps, **key_values(run_option or [])
    )
    output = Output(as_json, quiet)
    output.result(plan.to_dict())
    _print(plan, output, _ALL if every_row else None)
    if save is not None:
        plan.save(save)
        output.say(f"wrote {save}")


@plan_app.command()
def export(
    method: Named,
    out: Annotated[
        Path, typer.Option(help="Where to: .json or .safetensors (one plan), .json (several), .csv (rows).")
    ],
    steps: Annotated[int | None, typer.Option(help="Steps N, the intervals of the grid; default 50.")] = None,
    nfe: Annotated[
        str | None,
        typer.Option(help="In place of --steps: plans of at most these numbers of model calls, e.g. 4,8,12."),
    ] = None,
    evaluations: Annotated[
        str | None, typer.Option(help="Of a file with several plans: those of N evaluations, e.g. 8,12.")
    ] = None,
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    option: SamplerOptions = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the plan of a sampler to a file, for 'sample --plan', or for an engine in another language."""
    from ...analysis.recommend import plan_within
    from ...plans.plan_set import PlanSet
    from ...support.files import write_atomic

    check_output(out, ".json", ".safetensors", ".csv")
    if steps is not None and nfe is not None:
        raise ConfigurationError("--steps and --nfe are both given", where="nfe", suggestion="give one of them")
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option)
    if in_file(method) and (nfe is not None or evaluations is not None):
        refuse_beside_plan(**settings, option=option)
        made = chosen_plans(Path(method), nfe, evaluations)
    elif evaluations is not None:
        raise ConfigurationError(f"{method} is no file", where="evaluations", suggestion="give --nfe or --steps")
    elif nfe is None:
        plan = plan_of(method, 50 if steps is None else steps, settings, option)
        made = PlanSet({plan.nfe: plan})
    else:
        sampler = pipeline_of(method, settings, option).sampler
        made = PlanSet({plan.nfe: plan for _, plan in (plan_within(sampler, n) for n in integers(nfe, "nfe"))})
    plans = list(made.values())
    if len(plans) > 1 and out.suffix != ".json":
        raise ConfigurationError(
            f"a {out.suffix} file holds one plan", where=str(out), suggestion="write several plans to a .json file"
        )
    if out.suffix == ".csv":
        write_atomic(out, _csv(plans[0]).encode())
    elif len(plans) > 1:
        made.save(out)
    else:
        plans[0].save(out)
    output = Output(as_json, quiet)
    output.result({
        "file": str(out),
        "plans": [
            {
                "nfe": plan.nfe, "evaluations": plan.evaluations, "steps": plan.steps, "sampler": plan.sampler,
                "hash": plan.content_hash,
            }
            for plan in plans
        ],
    })  # fmt: skip
    output.say(f"wrote {out}: {plans[0].sampler}, {made.keys_in_words}")


def _print(plan: SamplingPlan, output: Output, most: int | None) -> None:
    """The first line of the plan's text, and its table."""
    lines = (str(plan) if most is None else f"{str(plan).splitlines()[0]}\n{plan.table(most)}").splitlines()
    output.say(lines[0])
    output.lines(lines[1:])


def _csv(plan: SamplingPlan) -> str:
    """The execution form of a plan, one line a row, at full precision."""
    from ...plans.plan_text import plan_columns

    columns = plan_columns(plan, "{!r}".format)
    rows = [[name for name, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    return "".join(",".join(row) + "\n" for row in rows)
