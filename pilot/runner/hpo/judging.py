"""The judgement on a hyper-parameter job (hpo-contract.md 10.4)."""

from __future__ import annotations

from pilot.values.errors import EvaluationsFailed, PointsRefused
from pilot.values.hpo import PointsEnd
from pilot.values.stop import FROM_OUTSIDE, Reason, Stop

_STILL_OURS = (*FROM_OUTSIDE, Reason.WALLTIME, Reason.DEADLINE)
"""Stops after which what was evaluated still counts: the server has not ended the job."""


def judge_points(points: PointsEnd, stop: Stop) -> None:
    """Raise why a hyper-parameter job has failed; a point that was closed makes it a finished one (promise P2)."""
    if stop.reason is not None and stop.reason not in _STILL_OURS:
        stop.check()
    if points.closed:
        return
    stop.check()
    if points.refused:
        raise PointsRefused(f"no points: {points.refused}")
    if points.untold:
        raise PointsRefused(f"{len(points.untold)} points were evaluated, and none of their losses could be told")
    if points.tried:
        raise EvaluationsFailed(f"{points.tried} points were tried, and none has a loss: {points.first_failure}")
