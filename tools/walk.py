"""Print the walk of a call through the package: its files in the order they are entered, and the number of switches.

    python tools/walk.py            # a pipeline is made and samples in three DDIM steps
    python tools/walk.py --calls    # every switch from file to file, with the function that is entered

The call runs twice and the second run is traced: the first one imports modules. The model is a function outside of the
package, so that only the work around the model is counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import noise_scheduler_sampling_system as package

ROOT = Path(package.__file__).parent


class Call(NamedTuple):
    """A function that was entered.

    Attributes:
        file: its file, relative to the package.
        function: its name.
    """

    file: str
    function: str


def walk(call: Callable[[], object]) -> list[Call]:
    """Every function of the package that a call enters, in order; generators count at every resumption."""
    calls: list[Call] = []

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(ROOT):
                calls.append(
                    Call(str(file.relative_to(ROOT)), getattr(frame.f_code, "co_qualname", frame.f_code.co_name))
                )

    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls


def switches(calls: list[Call]) -> list[Call]:
    """The calls that enter another file than the call before."""
    return [now for before, now in pairwise(calls) if before.file != now.file]


def model(x: Any, t: Any) -> Any:
    """The prediction ε = x."""
    return x


def sample() -> None:
    """Make a pipeline and sample in three DDIM steps."""
    package.DiffusionPipeline().sample(model, shape=(1, 1, 8, 8), num_inference_steps=3, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="print every change of file")
    wanted = parser.parse_args()
    sample()
    calls = walk(sample)
    changes = switches(calls)
    if wanted.calls:
        print("\n".join(f"{call.file}  {call.function}" for call in calls[:1] + changes))
    else:
        print("\n".join(dict.fromkeys(call.file for call in calls)))
    print(f"{len({call.file for call in calls})} files, {len(changes)} switches")


if __name__ == "__main__":
    main()
