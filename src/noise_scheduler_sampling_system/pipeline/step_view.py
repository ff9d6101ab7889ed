"""A step of a run as a user sees it: with copies, so that changes to them do not change the run."""

from __future__ import annotations

from torch import Tensor

from ..guidance.evaluate import Memory
from ..running.callbacks import Copies
from ..running.loop import Branches, PlannedRun, Reached, RowState
from ..running.results import RunState, SamplingStep
from .job import Job

__all__ = ["run_state", "view"]


def view(job: Job, reached: Reached, memory: Memory) -> SamplingStep:
    """The step that ended at a row.

    Args:
        job: whose step it is.
        reached: the row.
        memory: what the guidance remembers.
    """
    run, state, found = reached
    plan, row = run.plan, state.row
    index = int(plan.step[row - 1])
    first_row = int((plan.step == index).argmax())
    saved = run_state(job, run, state, memory)
    return SamplingStep(
        index=index,
        x=saved.state.x,
        t=plan.level(first_row).t,
        sigma=float(plan.sigma[row].max()),
        nfe=plan.calls_before(row) if found is None else found.calls,
        first_sample=job.first,
        state=saved,
        _clean=lambda: run.clean_sample(state),
        white_on_black=job.white_on_black,
    )


def run_state(job: Job, run: PlannedRun, state: RowState, memory: Memory) -> RunState:
    """A state between two rows, with all that is needed to go on from it.

    Args:
        job: whose run it is.
        run: the plan that the row belongs to.
        state: after a row.
        memory: what the guidance remembers.
    """
    plan, row = run.plan, state.row
    return RunState(
        plan,
        RowState(row, state.x.clone(), Copies(state.history), *(_last_call(state) if row == len(plan) else ())),
        job.noise.keys,
        job.settings,
        Copies(memory),
        job.noise.kind,
        job.fingerprint,
        job.noise.made_on,
    )


def _last_call(state: RowState) -> tuple[Tensor | None, Tensor | None]:
    """Input and output of the last call, from which a finished run can hand out its last step again.

    They are not copies, since the run does not need them any more.
    """
    return state.evaluated_x, state.output.guided if isinstance(state.output, Branches) else state.output
