"""What the reporter tells main: one of these values per thing that main waits for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pilot.values.errors import BadJob, PilotError
from pilot.values.job import Job


@dataclass(frozen=True, slots=True)
class Documents:
    """Queue and storage data, as they were fetched."""

    queue: Any
    storages: Any


@dataclass(frozen=True, slots=True)
class Acquired:
    """A job, or a definition that had to be refused."""

    job: Job | BadJob


@dataclass(frozen=True, slots=True)
class Known:
    """What the server knows of a job: its status ("not found" for an unknown one) and its attempt."""

    status: str
    attempt: int | None


@dataclass(frozen=True, slots=True)
class Granted:
    """A credential that the server has handed out."""

    text: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """No acquire is in flight any more, and none will be sent. ``lost`` answers may each have held a job."""

    lost: int = 0


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that waiting does not heal."""

    error: PilotError


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of ours in the reporter, which goes on: no answer to anything, and nothing that main waits for."""

    why: str


class Verdict(StrEnum):
    """What became of a final report."""

    STORED = "stored"
    ALREADY_DONE = "already done"
    GONE = "the server has ended or given away this attempt"
    REFUSED = "refused"
    GAVE_UP = "not delivered in time"


@dataclass(frozen=True, slots=True)
class Reported:
    """The end of a final report, and the server's last words on it."""

    verdict: Verdict
    detail: str = ""


Message = Documents | Acquired | Known | Granted | Withdrawn | Broken | Fault | Reported
