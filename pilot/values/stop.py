"""Stop: one request to end, with its first reason, that every wait can watch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Literal, Protocol, Self

from pilot.values.deadline import Budget, Deadline
from pilot.values.errors import GivenAway, Stopped


class Reason(StrEnum):
    """Why a stop was asked for. A closed list: each one is an error code at the server."""

    SIGTERM = "sigterm"
    SIGINT = "sigint"
    PREEMPTED = "preempted"
    TOBEKILLED = "tobekilled"
    ALREADY_DONE = "alreadydone"
    WALLTIME = "walltime"
    DEADLINE = "deadline"


FROM_OUTSIDE = (Reason.SIGTERM, Reason.SIGINT, Reason.PREEMPTED)
"""The reasons that take the pilot, and not its job: what the job has done is worth saving."""

_TELLS: dict[Reason, tuple[int, str]] = {
    Reason.SIGTERM: (1201, "the pilot was told to stop by SIGTERM"),
    Reason.SIGINT: (1208, "the pilot was told to stop by SIGINT"),
    Reason.PREEMPTED: (1379, "preempted: the pod is being taken away (SIGTERM)"),
    Reason.TOBEKILLED: (1144, "killed by the PanDA server (tobekilled)"),
    Reason.ALREADY_DONE: (1144, "the PanDA server has this job's end already (alreadydone)"),
    Reason.WALLTIME: (1213, "the job's wall time limit was reached"),
    Reason.DEADLINE: (1213, "the pilot's own deadline was reached"),
}


def error_of(reason: Reason) -> Stopped:
    """What a stop for this reason is at the server."""
    code, text = _TELLS[reason]
    return GivenAway(text, code) if reason is Reason.ALREADY_DONE else Stopped(text, code)


Part = Literal["payload", "outputs", "save", "report", "leave"]

_HURRIED_S = 5.0


class Drain:
    """The wish to finish what is being done, and to take no more. Set once; from any thread or signal handler."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.requested = False

    def request(self) -> None:
        """Wish it."""
        if not self.requested:
            self.requested = True
            os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """Readable once it was wished."""
        return self._fd


class Waitable(Protocol):
    """What a wait can be woken by: its descriptor becomes readable, and stays so."""

    def fileno(self) -> int:
        """The descriptor."""


class Stop:
    """Set once, never unset; the first reason stays.

    `fileno` is readable from then on, so `select` can wait for it. `request` may be called from any thread
    and from a signal handler: it takes no lock.
    """

    def __init__(self, parent: Stop | None = None) -> None:
        """A stop of its own, or one that also obeys ``parent`` (a job's stop obeys the pilot's)."""
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._first: tuple[Reason, float] | None = None
        self._children: list[Stop] = []
        self._parent = parent
        if parent is not None:
            parent._children.append(self)
            if parent._first is not None:
                self.request(parent._first[0])

    def request(self, reason: Reason) -> None:
        """Ask for the stop. A second request changes nothing."""
        if self._first is None:
            self._first = (reason, time.monotonic())
            os.eventfd_write(self._fd, 1)
        for child in tuple(self._children):
            child.request(reason)

    def close(self) -> None:
        """Give the descriptor back and leave the parent."""
        if self._parent is not None:
            self._parent._children.remove(self)
        os.close(self._fd)

    def __enter__(self) -> Self:
        """Close on leaving the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()

    def fileno(self) -> int:
        """Readable once the stop was asked for."""
        return self._fd

    @property
    def reason(self) -> Reason | None:
        """The first reason, or None."""
        return self._first[0] if self._first else None

    @property
    def asked_at(self) -> float | None:
        """When the stop was asked for, on the monotonic clock, in seconds."""
        return self._first[1] if self._first else None

    def error(self) -> Stopped:
        """The error that a step raises when it obeys."""
        return error_of(self.reason or Reason.SIGTERM)

    def check(self) -> None:
        """Raise `Stopped` if the stop was asked for."""
        if self._first is not None:
            raise self.error()


@contextmanager
def unless_stopped(stop: Stop, error: type[Exception]) -> Iterator[None]:
    """What could not be begun before a stop came was stopped: the block raises Stopped in place of the error."""
    try:
        yield
    except error:
        stop.check()
        raise


def share(part: Part, grace_s: float, stop: Stop, hurry: Stop) -> Deadline | None:
    """The end of this part of a stop; None without a stop.

    A second time of asking leaves the payload nothing, and the others what they had of a grace period of 5 s.
    """
    if stop.asked_at is None:
        return None
    usual = Deadline(stop.asked_at + getattr(Budget.of(grace_s), f"{part}_s"))
    if hurry.asked_at is None:
        return usual
    rest_s = min(_HURRIED_S, max(0.1, stop.asked_at + grace_s - hurry.asked_at))
    quick_s = 0.0 if part == "payload" else getattr(Budget.of(rest_s), f"{part}_s")
    return usual.sooner(Deadline(hurry.asked_at + quick_s))
