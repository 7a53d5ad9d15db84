"""The watchdog: ends a pilot whose main thread is stuck, while there is still time to end it in order.

Main is busy, or it waits and has said until when. Busy for longer than the setting ``stuck``, waiting for so
long beyond its word, or still there when the grace period of a stop is nearly over: then the stacks of all
threads go to the log file, the payload is killed, and the process ends with exit code 2. The journal is good
at any moment, so the next life tells the job's end.

It never logs: what main is stuck in may be the log.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pilot.payload.tree import Proof, end_proven
from pilot.values.deadline import Budget, Deadline
from pilot.values.stop import Stop

STUCK = 2
"""The exit code, which Harvester shows as: failed, stuck pilot killed."""

_KILL_S = 0.3
_TERMS = (signal.SIGTERM, signal.SIGINT)


class Watchdog:
    """A thread that sleeps until the moment at which main must have been back."""

    def __init__(self, stuck_s: float, grace_s: float, log_file: Path, *, arrivals: int, stop: Stop) -> None:
        """``arrivals``: the descriptor of `pilot.agent.signals` that tells of each signal."""
        budget = Budget.of(grace_s)
        self._stuck_s = stuck_s
        self._hard_s = (budget.leave_s + grace_s) / 2  # in the middle of the margin of promise P3
        self._log_file = log_file
        self._arrivals = arrivals
        self._stop = stop
        self._due = Deadline.after(stuck_s)
        self._hard = Deadline.never()
        self._doing = "starting"
        self._payload: Proof | None = None
        self._changed = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = False
        self._on_stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Watch no more."""
        self._ended = True
        os.eventfd_write(self._changed, 1)
        self._thread.join()
        os.close(self._changed)

    # --- what main says -----------------------------------------------------------------------------

    def busy(self, doing: str) -> None:
        """Main begins something that takes no waiting."""
        self._doing = doing
        self._due = Deadline.after(self._stuck_s)

    @contextmanager
    def waiting(self, limit: Deadline) -> Iterator[None]:
        """Main waits in the block, and is back by ``limit``."""
        self._due = Deadline(limit.at + self._stuck_s, limit.clock)
        try:
            yield
        finally:
            self._due = Deadline.after(self._stuck_s)

    @contextmanager
    def guards(self, proof: Proof) -> Iterator[None]:
        """A payload runs in the block, which must not outlive us."""
        self._payload = proof
        try:
            yield
        finally:
            self._payload = None

    def on_stop(self, act: Callable[[], None]) -> None:
        """What is to be done at once when a stop comes, whatever main does: its record in the journal."""
        self._on_stop = act

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        """Main never wakes us: when the moment comes, it is looked at again whether it still counts."""
        watched = [self._changed, self._arrivals, self._stop.fileno()]
        while not self._ended:
            due = self._due.sooner(self._hard)
            if due.expired():
                self._bite()
            ready, _, _ = select.select(watched, [], [], min(due.left(), self._stuck_s))
            if self._arrivals in ready:
                self._heard()
            if self._stop.fileno() in ready:
                watched.remove(self._stop.fileno())
                self._count_down()
                self._on_stop()

    def _heard(self) -> None:
        """A signal came: its time runs from now, also where main cannot run its handler."""
        if set(os.read(self._arrivals, 512)) & {int(number) for number in _TERMS}:
            self._count_down()

    def _count_down(self) -> None:
        self._hard = self._hard.sooner(Deadline.after(self._hard_s))

    def _bite(self) -> None:
        """The end. Nothing here may wait for a lock that main could hold."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        why = "the grace period is nearly over" if self._hard.expired() else f"stuck for {self._stuck_s:g} s"
        try:
            with self._log_file.open("a") as file:
                file.write(f"{stamp} ERROR   the pilot is stuck and ends itself: {why} (main was: {self._doing})\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            if self._payload is not None:
                end_proven(self._payload, Deadline.after(_KILL_S))
        finally:
            os._exit(STUCK)
