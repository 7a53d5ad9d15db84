"""Hyper-parameter points, and what a job asks for that evaluates them (hpo-contract.md sections 2, 4 and 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pilot.values.names import Lfn, Url

PENALTY = 100_000.0
"""The loss that stands for a point which could not be evaluated; the server's own figure (hpo-contract.md 0.1)."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a study. ``parameters`` is whatever its optimiser has made, ``loss`` None until it was told."""

    id: str
    parameters: Any
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What is kept of an evaluation that is taken away.

    Args:
        save: paths, relative to the evaluation's directory, of files and directories.
        load: the name that the tarball gets for the next one; "": it is unpacked.
        interval_s: seconds between two looks at whether they have changed.
    """

    save: tuple[str, ...]
    load: str = ""
    interval_s: float = 300.0


@dataclass(frozen=True, slots=True)
class PointWork:
    """What a runHPO job asks for: its arguments, read (hpo-contract.md 4.2).

    Args:
        command: the evaluation's text, for the payload's shell.
        point_file: gets the point's parameters.
        output_file: the evaluation's answer: status, loss, message.
        meta_file: an object that the evaluation may leave for the job's metadata.
        metrics: the job's output that gets a number behind it for each point, and the file that is packed into it.
        data_lists: files that get the names of the job's inputs, as JSON lists.
        sandbox: an archive among the job's inputs, unpacked for each point.
        source: base URL of the cache that checkpoints come from.
        idds: base URL of iDDS; None where it is the PanDA server itself.
        segment: JEDI's dataset of a segmented task.
        most_points: as many are evaluated by one job at most; None: no limit.
        checkpoints: None without.
        image: the container image that evaluations want; "": any.
        timeout_s: seconds for one evaluation; None: no limit.
        progress: where intermediate losses are reported to and pruning is asked of, of our embedded server.
        dry_run: evaluate one made-up point, and tell nobody.
    """

    task_id: int
    command: str
    point_file: Lfn
    output_file: Lfn
    meta_file: Lfn
    metrics: tuple[Lfn, Lfn] | None = None
    data_lists: Mapping[Lfn, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    sandbox: Lfn | None = None
    source: str | None = None
    idds: str | None = None
    segment: int | None = None
    most_points: int | None = None
    checkpoints: Checkpoints | None = None
    image: str = ""
    timeout_s: float | None = None
    progress: Url | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PointsEnd:
    """What became of a job's points.

    Args:
        tried: how many were evaluated, or begun to be.
        closed: loss by id of those whose loss is told and whose event is finished.
        untold: loss by id of those that were measured and could not be told, or not in time.
        left: by id, why a point was left to the server.
        pruned: ids that the optimiser saw no use in.
        penalised: ids that got the penalty for good.
        metrics: outputs of single points, to be stored.
        meta: what evaluations have said for the job's metadata.
        first_failure: why the first evaluation that failed did; "" if none did.
        refused: why no points were given, "" if they were.
    """

    tried: int = 0
    closed: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    untold: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    left: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pruned: frozenset[str] = frozenset()
    penalised: frozenset[str] = frozenset()
    metrics: tuple[Lfn, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    first_failure: str = ""
    refused: str = ""

    @property
    def best(self) -> tuple[str, float] | None:
        """Id and loss of the best point that this job closed; None without."""
        told = ((loss, point) for point, loss in self.closed.items() if point not in self.penalised)
        real = [pair for pair in told if math.isfinite(pair[0])]
        return min(real)[::-1] if real else None


def finite(value: object) -> float | None:
    """A loss: a finite number, or a text of one; None for anything else. 0.0 is a loss, true is not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
