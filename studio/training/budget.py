"""From a time budget to a number of steps, so that an hour and a night both end with a model.

The learning rate falls to zero at the last step, so the number of steps must be known beforehand.
It is measured at the start, on whole forward and backward passes, and written down; a run that is
resumed keeps its plan, or its learning rate would jump.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from studio.core.errors import TrainingError

PLAN = "plan.json"  # in the stage's folder
WARM_UP = 2  # passes that are not timed: caches, compilation, the first allocations
TIMED = 5  # passes; their median counts
OPTIMIZER_SHARE = 1.05  # a step beside its forward and backward pass: at most 5 % (see benchmarks)
COMMIT_SECONDS = 60.0  # between two checkpoints of a run that was planned by time


@dataclass(frozen=True)
class Plan:
    """How long a run is, decided once."""

    steps: int
    checkpoint_every: int  # steps
    seconds_per_step: float  # as measured
    budget: float  # seconds

    @classmethod
    def make(cls, budget: float, seconds_per_step: float) -> Plan:
        """Return as many steps as fit into `budget` seconds, at least one."""
        steps = max(int(budget / seconds_per_step), 1)
        every = max(int(COMMIT_SECONDS / seconds_per_step), 1)
        return cls(steps, every, seconds_per_step, budget)


def measure(take_gradient: Callable[[int], object]) -> Iterator[float]:
    """Yield after every pass; the last value is the seconds that a step takes.

    The passes are of the first step and change no weight, so a run that was planned is the same as
    one that was told its number of steps.
    """
    seconds: list[float] = []
    for number in range(WARM_UP + TIMED):
        begun = time.perf_counter()
        take_gradient(0)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - begun)
        yield sorted(seconds or [0.0])[len(seconds) // 2] * OPTIMIZER_SHARE


def read_plan(folder: Path) -> Plan | None:
    """Return the plan that was made for the run in `folder`, None when there is none yet.

    Raises `TrainingError` when it is damaged.
    """
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        plan = Plan(**json.loads(path.read_text(encoding="utf-8")))
        if not (isinstance(plan.steps, int) and plan.steps > 0 and plan.checkpoint_every > 0):
            raise ValueError(plan)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"The plan of this run, {path}, is damaged. Delete the folder {folder} to train anew, "
            "or give the number of steps with --steps."
        ) from error
    return plan


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the plan in one piece."""
    partial = folder / f"{PLAN}.tmp"
    partial.write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")
    partial.replace(folder / PLAN)
