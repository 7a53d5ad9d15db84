"""What the point service answers main."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilot.runner.hpo.book import Lease
from pilot.values.hpo import Point


@dataclass(frozen=True, slots=True)
class Taken:
    """An answer to `PointService.take`: so many events came; each is followed by `Ready`, `Known` or `Useless`."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """No point will ever come: whoever asked may not, or asked wrongly."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Ready:
    """A point that is to be evaluated."""

    lease: Lease
    seconds: float


@dataclass(frozen=True, slots=True)
class Useless:
    """An event that no point stands behind, or whose point cannot be had: it is left to the server."""

    point: str
    why: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The loss is told and the event is finished. ``known``: somebody else had told a loss before."""

    point: str
    loss: float
    command: str = ""
    known: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """A measured point that is not ours any more, or cannot be told."""

    point: str
    why: str


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint was looked at: ``digest`` of what the server has now, None where nothing could be saved."""

    point: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class Prune:
    """The optimiser sees no use in this evaluation."""

    point: str


@dataclass(frozen=True, slots=True)
class Overview:
    """All points of the study, as iDDS tells them."""

    points: Sequence[Point]


Message = Taken | Refused | Ready | Useless | Closed | Lost | Saved | Prune | Overview

Steps = Sequence[Mapping[str, float]]
Paths = tuple[Path, ...]
