"""The watchdog: ends a pilot whose main thread is stuck, while there is still time to end it in order.

Main is busy, or it waits and has said until when. Busy for longer than the setting ``stuck``, waiting for so
long beyond its word, or still there when the grace period of a stop is nearly over: then the stacks of all
threads go to the log file, the payloads are killed, and the process ends with exit code 2. The journal is good
at any moment, so the next life tells the job's end.

Its own thread never logs and touches no file: what main is stuck in may be the log, or a dead disk. What is to be
written at the end is written by a thread that is not awaited for long.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from pilot.files.opening import open_file
from pilot.payload.proven import Proof, end_all_proven
from pilot.processes.starting import start_thread
from pilot.values.deadline import Budget, Deadline
from pilot.values.stop import Stop

STUCK = 2
"""The exit code, which Harvester shows as: failed, stuck pilot killed."""

_TELL_S = 1.0
_KILL_S = 1.0
_TERMS = (signal.SIGTERM, signal.SIGINT)


class Watchdog:
    """A thread that sleeps until the moment at which main must have been back."""

    def __init__(self, stuck_s: float, grace_s: float, log_file: Path, *, arrivals: int, stop: Stop) -> None:
        """``arrivals``: the descriptor of `pilot.agent.signals` that tells of each signal."""
        margin_s = grace_s - Budget.of(grace_s).leave_s
        self._stuck_s = stuck_s
        self._hard_s = grace_s - 0.7 * margin_s  # a pilot that leaves in order is gone by then (promise P3)
        self._tell_s = min(_TELL_S, margin_s / 5)
        self._kill_s = min(_KILL_S, margin_s / 5)
        self._log_file = log_file
        self._arrivals = arrivals
        self._stop = stop
        self._due = Deadline.after(stuck_s)
        self._hard = Deadline.never()
        self._payloads: tuple[Proof, ...] = ()  # replaced as a whole, so that our thread can read it at any moment
        self._changed = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.signal: int | None = None  # the first one that means a stop
        self._ended = False
        self._testament: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch. Raises SiteError where the system has no thread to give."""
        start_thread(self._thread)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Watch no more."""
        self._ended = True
        os.eventfd_write(self._changed, 1)
        self._thread.join()
        os.close(self._changed)

    # --- what main says -----------------------------------------------------------------------------

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
        """A payload runs in the block, which must not outlive us; other payloads' blocks may overlap with it."""
        self._payloads = (*self._payloads, proof)
        try:
            yield
        finally:
            at = self._payloads.index(proof)
            self._payloads = self._payloads[:at] + self._payloads[at + 1 :]

    def testament(self, act: Callable[[], None]) -> None:
        """What is still to be written if a stop ends with a stuck main: its record in the journal."""
        self._testament = act

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

    def _heard(self) -> None:
        """A signal came: its time runs from now, also where main cannot run its handler."""
        stops = [number for number in os.read(self._arrivals, 512) if number in _TERMS]
        if stops:
            self.signal = self.signal or stops[0]
            self._count_down()

    def _count_down(self) -> None:
        self._hard = self._hard.sooner(Deadline.after(self._hard_s))

    def _bite(self) -> None:
        """The end. Nothing here may wait for long, for a lock that main could hold least of all."""
        try:
            teller = threading.Thread(target=self._tell, name="testament", daemon=True)
            with suppress(RuntimeError):  # no thread to be had: the payloads are ended all the same
                teller.start()
                teller.join(self._tell_s)
            end_all_proven(self._payloads, Deadline.after(self._kill_s))
        finally:
            os._exit(STUCK)

    def _tell(self) -> None:
        """Stacks into the log file, and a stop into the journal: where that is possible at all."""
        stopped = self._hard.expired()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        why = "the grace period is nearly over" if stopped else f"nothing done for {self._stuck_s:g} s"
        descriptor = open_file(str(self._log_file), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with os.fdopen(descriptor, "a") as file:
            file.write(f"{stamp} ERROR   the pilot is stuck and ends itself: {why}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        if stopped:
            self._testament()
