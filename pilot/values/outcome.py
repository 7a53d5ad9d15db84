"""Outcome: what became of a job, as the final update tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from pilot.values.errors import JobError
from pilot.values.hpo import PointsEnd
from pilot.values.names import Checksum, Endpoint, Lfn, Url
from pilot.values.usage import Memory, Usage


class Phase(StrEnum):
    """Where a job is on its route."""

    STARTING = "starting"
    STAGE_IN = "stage-in"
    PAYLOAD = "payload"
    STAGE_OUT = "stage-out"
    REPORT = "report"


class State(StrEnum):
    """The states that a pilot may tell (panda-protocol.md 5.1)."""

    STARTING = "starting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An output, or the log, that lies at its destination and was verified there."""

    lfn: Lfn
    guid: str
    size: int
    checksum: Checksum
    url: Url
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class PayloadEnd:
    """How the payload's process ended.

    ``exit_code`` is what the wait status says (-9 for signal 9), ``cpu_s`` the CPU seconds of the process
    and of those that it waited for, ``max_rss_kib`` the peak of the largest of them; ``memory`` is what the
    pod's control group has said, where it has a limit. ``stopped``: we have ended it, so what it left is not
    finished, whatever its exit code. ``cpu_s`` also counts the orphans that the pilot waited for;
    ``leftovers`` are the processes that it left behind when it ended by itself, ``survivors`` those that
    could not be ended. ``usage`` is what its samples sum up to,
    ``gpu_lost`` why a GPU of it is no more, ``disk`` how full the disk was at its end, if it was full.
    """

    exit_code: int
    cpu_s: float = 0.0
    max_rss_kib: int = 0
    memory: Memory | None = None
    stopped: bool = False
    survivors: int = 0
    leftovers: int = 0
    usage: Usage | None = None
    gpu_lost: str = ""
    disk: str = ""
    points: PointsEnd | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job. ``cause`` is the first cause of a failure; None means that the job finished.

    ``usage`` is what was seen of a payload whose end nobody has seen.
    """

    cause: JobError | None
    payload: PayloadEnd | None
    stored: tuple[StoredFile, ...]
    began: datetime
    ended: datetime
    seconds: Mapping[Phase, float] = field(default_factory=lambda: MappingProxyType({}))
    stderr_line: str = ""
    log_tail: str = ""
    usage: Usage | None = None

    @property
    def state(self) -> State:
        """Finished only without a cause (promise P2)."""
        return State.FINISHED if self.cause is None else State.FAILED
