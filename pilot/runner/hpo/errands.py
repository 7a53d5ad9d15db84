"""Errands: rows of calls that a few threads make, each on connections of its own, so that main never waits for one."""

from __future__ import annotations

import itertools
import os
import queue
import random
import select
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from pilot.panda.duties import Backoff
from pilot.processes.starting import start_thread, why_scarce
from pilot.values.deadline import Deadline
from pilot.values.errors import PilotError, ResourceError, ServerError, ServerRefused, SiteError
from pilot.values.events import events
from pilot.values.stop import Waitable

log = events(__name__)
T = TypeVar("T")

_POLICY = Backoff(0.5, 30)
_JOIN_S = 1.0


class GivenUpError(PilotError):
    """The errands were ended before an answer came."""


class Lines(Protocol):
    """One thread's connections."""

    def interrupt(self) -> None:
        """End the call in flight; from any thread."""

    def close(self) -> None:
        """Close them."""


L = TypeVar("L", bound=Lines)


class Errands(Generic[L]):
    """A few threads that run errands, those of the lowest rank first. To be shut."""

    def __init__(
        self,
        connect: Callable[[], L],
        threads: int,
        failed: Callable[[Exception], None],
        limit: Deadline | None = None,
        wakers: Collection[Waitable] = (),
        rng: random.Random | None = None,
    ) -> None:
        """Start the threads; each makes its ``connect``ions, and ``failed`` hears of a fault of ours.

        Where the system has no thread to give, one is waited for, until ``limit`` or one of ``wakers``; then
        ResourceError.
        """
        self._connect = connect
        self._failed = failed
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[L], None] | None, bool]] = queue.PriorityQueue()
        self._turn = itertools.count()
        self._ending = threading.Event()
        self._answers = 0
        self._answered = threading.Condition()
        self._lines: list[L] = []
        self._open = 0
        self._counting = threading.Lock()
        self._idle = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._threads: list[threading.Thread] = []
        for number in range(threads):
            self._start(threading.Thread(target=self._run, name=f"points-{number}", daemon=True), limit, wakers)

    def _start(self, thread: threading.Thread, limit: Deadline | None, wakers: Collection[Waitable]) -> None:
        """One is enough: the others may be wanting."""
        try:
            if self._threads:
                thread.start()
            else:
                start_thread(thread, limit, *wakers)
        except RuntimeError as error:
            log.warning("fewer errands at once", threads=len(self._threads), why=why_scarce(error))
        except SiteError as error:
            raise ResourceError(str(error)) from error
        else:
            self._threads.append(thread)

    def add(self, rank: int, errand: Callable[[L], None], *, awaited: bool = False) -> None:
        """Run it after those of a lower rank, and older ones; `finish` waits for those that are ``awaited``."""
        if awaited:
            with self._counting:
                self._open += 1
                if self._open == 1:
                    os.eventfd_read(self._idle)
        self._queue.put((rank, next(self._turn), errand, awaited))

    def persist(self, call: Callable[[], T], confirm: Callable[[], T | None] = lambda: None) -> T:
        """In an errand: make a call until it is answered. Raises ServerRefused, CredentialError, GivenUpError.

        ``confirm`` is asked after an answer was lost: what it finds is the answer.
        """
        tries, lost, hurried = 0, False, False
        while not self._ending.is_set():
            seen = self._answers
            try:
                found = confirm() if lost else None
                answer = found if found is not None else call()
            except ServerRefused:
                self._hear()
                raise
            except ServerError as error:
                lost = lost or error.maybe_done
                pause = _POLICY.delay(tries, self._rng)
                tries += 1
                log.warning(str(error), tries=tries, next_s=round(pause, 1))
                hurried = self._rest(pause, None if hurried else seen)
            else:
                self._hear()
                return answer
        raise GivenUpError("the errands were ended")

    def _hear(self) -> None:
        """A server has answered: who waits to ask again need not wait longer."""
        with self._answered:
            self._answers += 1
            self._answered.notify_all()

    def _rest(self, seconds: float, seen: int | None) -> bool:
        """Wait; whether more answers than ``seen`` have ended that, which they do once in a row of failures."""
        limit = Deadline.after(seconds)
        with self._answered:
            while not self._ending.is_set() and not limit.expired():
                if seen is not None and self._answers > seen:
                    return True
                self._answered.wait(limit.left())
        return seen is None

    def pause(self, seconds: float) -> None:
        """In an errand: wait. Raises GivenUpError at the end."""
        if self._ending.wait(seconds):
            raise GivenUpError("the errands were ended")

    def finish(self, limit: Deadline, *wakers: Waitable) -> bool:
        """Wait until all that are awaited are done; False when the limit, or one of ``wakers``, came first."""
        watched = [self._idle, *(waker.fileno() for waker in wakers)]
        ready, _, _ = select.select(watched, [], [], limit.timeout())
        return self._idle in ready

    def shut(self) -> None:
        """End: calls in flight are broken off, what is left is forgotten."""
        with self._answered:
            self._ending.set()
            self._answered.notify_all()
        for lines in tuple(self._lines):
            lines.interrupt()
        for _ in self._threads:
            self._queue.put((0, -1, None, False))
        limit = Deadline.after(_JOIN_S)
        for thread in self._threads:
            thread.join(limit.left())

    def _run(self) -> None:
        with self._connected() as lines:
            while not self._ending.is_set():
                _, _, errand, awaited = self._queue.get()
                if errand is None:
                    return
                try:
                    errand(lines)
                except GivenUpError:
                    log.debug("an errand was given up")
                except Exception as error:  # noqa: BLE001 - a thread's top: main must hear of a fault, or waits for ever
                    log.crash("the point service failed", error)
                    self._failed(error)
                finally:
                    if awaited:
                        self._done()

    @contextmanager
    def _connected(self) -> Iterator[L]:
        lines = self._connect()
        self._lines.append(lines)
        try:
            yield lines
        finally:
            lines.close()

    def _done(self) -> None:
        with self._counting:
            self._open -= 1
            if not self._open:
                os.eventfd_write(self._idle, 1)
