"""The book of a job's points: what is known of each, and the journal's record of each step.

A point goes NEW -> leased -> (starting -> started -> measured) -> told -> closed (hpo-contract.md 10.3), and each
of its steps is in the journal before the world can see what follows from it. Used by main and by the service's
threads; a point's step is taken by one of them at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pilot.payload.proven import Proof
from pilot.runner import facts
from pilot.runner.journal import Journal, Kind
from pilot.values.hpo import Point, PointsEnd
from pilot.values.names import Lfn


class Step(StrEnum):
    """How far a point has come."""

    LEASED = "leased"
    STARTING = "starting"
    STARTED = "started"
    ENDED = "ended"
    MEASURED = "measured"
    TOLD = "told"
    CLOSED = "closed"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Lease:
    """A point that is ours for the time of this job.

    Args:
        event: the id of the event that stands for it.
        point: its id and parameters.
        number: its running number in this job, from 0; also the suffix of its metrics.
        checkpoint: a tarball that an earlier evaluation has left; None without.
    """

    event: str
    point: Point
    number: int
    checkpoint: Path | None = None

    @property
    def id(self) -> str:
        """The point's id."""
        return self.point.id


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal proves of one point. ``loss`` is what its evaluation has measured."""

    event: str
    step: Step = Step.LEASED
    number: int = 0
    loss: float | None = None
    proof: Proof | None = None
    folder: Path | None = None


Entries = Mapping[str, Entry]
NO_ENTRIES: Entries = MappingProxyType({})


class Book:
    """Writes each step down. ``must`` where nothing may follow without the record: raises JournalBroken."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def leased(self, event: str, point: str, number: int) -> None:
        """The server has given us this event."""
        self._write(point, Step.LEASED, event=event, number=number)

    def starting(self, point: str, proof: Proof, folder: Path) -> None:
        """Before the evaluation's process is made."""
        self._journal.must(Kind.POINT, point=point, step=Step.STARTING, proof=proof.as_json(), folder=str(folder))

    def started(self, point: str, proof: Proof) -> None:
        """The evaluation runs."""
        self._write(point, Step.STARTED, proof=proof.as_json())

    def ended(self, point: str, why: str) -> None:
        """The evaluation has ended without a loss; it may be tried again."""
        self._write(point, Step.ENDED, why=why)

    def measured(self, point: str, loss: float) -> None:
        """The evaluation has ended, and this is its loss: before anybody is told."""
        self._write(point, Step.MEASURED, loss=loss)

    def told(self, point: str) -> None:
        """Now iDDS has the loss."""
        self._write(point, Step.TOLD)

    def closed(self, point: str) -> None:
        """The server has the event's end."""
        self._write(point, Step.CLOSED)

    def left(self, point: str, why: str) -> None:
        """Its event is left as it is: the server gives it to somebody else."""
        self._write(point, Step.LEFT, why=why)

    def _write(self, point: str, step: Step, **facts: Any) -> None:
        self._journal.write(Kind.POINT, point=point, step=step, **facts)


def folded(entries: Entries, record: Mapping[str, Any]) -> Entries:
    """The entries with one more record of the journal. Raises ValueError."""
    point, step = facts.text(record, "point"), Step(facts.text(record, "step"))
    before = entries.get(point)
    if step is Step.LEASED or before is None:
        entry = Entry(facts.text(record, "event", ""), step, facts.whole(record, "number", otherwise=0))
    else:
        entry = replace(before, step=step, **_facts(record))
    return MappingProxyType({**entries, point: entry})


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "loss" in record:
        found["loss"] = facts.real(record, "loss")
    if "proof" in record:
        found["proof"] = Proof.from_json(facts.mapping(record, "proof"))
    if "folder" in record:
        found["folder"] = Path(facts.text(record, "folder"))
    return found


@dataclass(slots=True)
class Tally:
    """What became of the points so far."""

    tried: set[str] = field(default_factory=set)
    closed: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    pruned: set[str] = field(default_factory=set)
    penalised: set[str] = field(default_factory=set)
    metrics: list[Lfn] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    first_failure: str = ""

    def end(self) -> PointsEnd:
        """The sum, as values."""
        untold = {point: loss for point, loss in self.measured.items() if point not in self.closed}
        return PointsEnd(
            tried=len(self.tried),
            closed=MappingProxyType(dict(self.closed)),
            untold=MappingProxyType(untold),
            left=MappingProxyType(dict(self.left)),
            pruned=frozenset(self.pruned),
            penalised=frozenset(self.penalised),
            metrics=tuple(self.metrics),
            meta=MappingProxyType(dict(self.meta)),
            first_failure=self.first_failure,
            refused=self.refused,
        )
