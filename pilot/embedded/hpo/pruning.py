"""Whether an evaluation is to be given up, judged by its intermediate losses and those of the others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pilot.embedded.hpo.trial import Trial
from pilot.values.study import Pruning

_REDUCTION = 4
"""Of so many that reach a rung, successive halving lets one go on to the next, which is as many times as far."""


def should_prune(pruning: Pruning, others: Sequence[Trial], running: Trial) -> bool:
    """The decision after the latest step."""
    last = max(running.steps, default=None)
    if pruning.kind == "none" or last is None or last < pruning.warmup_steps:
        return False
    if pruning.kind == "median":
        return _below_median(pruning, others, running.steps, last)
    return _left_behind(pruning, others, running.steps, last)


def _below_median(pruning: Pruning, others: Sequence[Trial], steps: Mapping[int, float], last: int) -> bool:
    """Whether the best so far is worse than the median of those that were evaluated to the end, at the same step."""
    told = [one.steps[last] for one in others if one.complete and last in one.steps]
    return len(told) >= max(1, pruning.startup_points) and min(steps.values()) > statistics.median(told)


def _left_behind(pruning: Pruning, others: Sequence[Trial], steps: Mapping[int, float], last: int) -> bool:
    """Whether it is not among the best quarter of those that have reached the rung that it has just reached."""
    first = max(1, pruning.warmup_steps)
    if last < first:
        return False
    rung = first * _REDUCTION ** int(math.log(last / first, _REDUCTION) + 1e-9)
    reached = [loss for one in others if (loss := _at(one.steps, rung)) is not None]
    own = _at(steps, rung)
    if own is None or len(reached) < max(1, pruning.startup_points):
        return False
    ranked = sorted([*reached, own])
    return own > ranked[max(0, len(ranked) // _REDUCTION - 1)]


def _at(steps: Mapping[int, float], rung: int) -> float | None:
    """The loss at the first step from a rung on."""
    reached = [step for step in steps if step >= rung]
    return steps[min(reached)] if reached else None
