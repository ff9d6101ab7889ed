"""A step of a run as a user sees it: with copies, so that changes to them do not change the run."""

from __future__ import annotations

from torch import Tensor

from ..guidance.evaluate import Memory
from ..running.brownian import BrownianNoise
from ..running.callbacks import Copies
from ..running.loop import Branches, Reached, RowState
from ..running.results import RunState, SamplingStep
from .job import Job

__all__ = ["view"]


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
    x = state.x.clone()
    return SamplingStep(
        index=index,
        x=x,
        t=float(plan.time[first_row]),
        sigma=float(plan.sigma[row]),
        nfe=plan.calls_before(row) if found is None else found.calls,
        first_sample=job.first,
        state=RunState(
            plan,
            RowState(row, x, Copies(state.history), *(_last_call(state) if row == len(plan) else ())),
            job.noise.keys,
            job.settings,
            Copies(memory),
            "brownian" if isinstance(job.noise, BrownianNoise) else "independent",
            job.fingerprint,
        ),
        _clean=lambda: run.clean_sample(state),
    )


def _last_call(state: RowState) -> tuple[Tensor | None, Tensor | None]:
    """Input and output of the last call, from which a finished run can hand out its last step again.

    They are not copies, since the run does not need them any more.
    """
    return state.evaluated_x, state.output.guided if isinstance(state.output, Branches) else state.output
