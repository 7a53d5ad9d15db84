"""Stop: one request to end, with its first reason, that every wait can watch."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from typing import Self

from pilot.values.errors import Stopped


class Reason(StrEnum):
    """Why a stop was asked for. A closed list: each one is an error code at the server."""

    SIGTERM = "sigterm"
    PREEMPTED = "preempted"
    TOBEKILLED = "tobekilled"
    WALLTIME = "walltime"
    DEADLINE = "deadline"


_TELLS: dict[Reason, tuple[int, str]] = {
    Reason.SIGTERM: (1201, "the pilot was told to stop by SIGTERM"),
    Reason.PREEMPTED: (1379, "preempted: the pod is being taken away (SIGTERM)"),
    Reason.TOBEKILLED: (1144, "killed by the PanDA server (tobekilled)"),
    Reason.WALLTIME: (1213, "the job's wall time limit was reached"),
    Reason.DEADLINE: (1213, "the pilot's own deadline was reached"),
}


class Drain:
    """The wish to finish what is being done, and to take no more. Set once, from any thread."""

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """Wish it."""
        self.requested = True


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
        code, text = _TELLS[self.reason or Reason.SIGTERM]
        return Stopped(text, code)

    def check(self) -> None:
        """Raise `Stopped` if the stop was asked for."""
        if self._first is not None:
            raise self.error()
