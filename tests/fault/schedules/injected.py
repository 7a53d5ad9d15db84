"""Injected parts: the clock, the journal, the transport and the lanes that give each point of a life to the world."""

from __future__ import annotations

import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pilot.net.transport import Answer
from pilot.panda.mailbox import Mailbox
from pilot.panda.reporter import Reporter
from pilot.runner.journal import Journal, Kind
from pilot.staging.lanes.obedience import Obedience
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import STAGE_KINDS, Exists, FileMissing, ServerUnavailable, StageError, TransferFailed
from pilot.values.names import Checksum
from pilot.values.stop import Drain, Stop
from tests.fault.clock import JumpingClock

if TYPE_CHECKING:
    from tests.fault.schedules.world import World


class Hang(BaseException):
    """Main waits for something that never comes."""


class Turns(JumpingClock):
    """A clock on which the reporter runs only when main lets it, until a moment or an event: then main goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self._thread: threading.Thread | None = None
        self._condition: threading.Condition | None = None
        self._until: float | None = None
        self._enough: Callable[[], bool] = lambda: False
        self._ended = False
        self._back = threading.Event()

    def born(self, reporter: Reporter) -> None:
        """Start a reporter; it waits for its turn."""
        self._begin()
        reporter.start()
        self._back.wait()

    def let(self, until: float, enough: Callable[[], bool]) -> None:
        """The reporter's turn: it ends at the moment, or when it has nothing due and ``enough()``."""
        if self._condition is None or self._thread is None or not self._thread.is_alive():
            return
        self._back.clear()
        with self._condition:
            self._until, self._enough = until, enough
            self._condition.notify_all()
        while not self._back.wait(0.2) and self._thread.is_alive():
            pass

    def skip(self, seconds: float) -> None:
        """Time in which no pilot lives."""
        self._now += seconds

    def end(self) -> None:
        """The reporter is no more."""
        if self._condition is not None and self._thread is not None:
            with self._condition:
                self._ended = True
                self._condition.notify_all()
            self._thread.join()

    @property
    def is_reporter(self) -> bool:
        """Whether the caller is the reporter."""
        return threading.current_thread() is self._thread

    def leave(self) -> None:
        """The reporter ends by itself: main goes on."""
        self._until = None
        self._back.set()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Called by the reporter when nothing is due: jump to what comes next, or give the turn back."""
        if self._thread is None:
            self._thread, self._condition = threading.current_thread(), condition
            self._back.set()
        elif self._until is not None and self._jumped(math.inf if seconds is None else self._now + seconds):
            return
        else:
            self.leave()
        while self._until is None and not self._ended:
            condition.wait()
        if self._ended:
            raise SystemExit

    def _jumped(self, due: float) -> bool:
        """Whether time has passed to something that comes in this turn."""
        if self._until is None or self._enough():
            return False
        plan = self._plans[0][0] if self._plans else math.inf
        moment = min(due, plan)
        if moment > self._until or math.isinf(moment):
            self._now = self._now if math.isinf(self._until) else max(self._now, self._until)
            return False
        self._now = max(self._now, moment)
        if plan <= due:
            self._plans.pop(0)[1]()
        return True


class TurnedMailbox(Mailbox):
    """Gives the reporter its turn while main waits. A limit on the real clock is one of injected seconds."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def get(self, deadline: Deadline, *wakers: Any) -> Any:
        """The next message; None at the deadline or for a waker."""
        until = self._world.clock.monotonic() + deadline.left()
        if not self._messages and not any(map(_asked, wakers)):
            self._world.let(until, lambda: bool(self._messages) or any(map(_asked, wakers)))
        if math.isinf(until) and not self._messages and not any(map(_asked, wakers)):
            raise Hang
        return super().get(Deadline.after(0))


def _asked(waker: Stop | Drain) -> bool:
    return waker.requested if isinstance(waker, Drain) else waker.reason is not None


class TurnedJournal(Journal):
    """A journal whose process can end before a record, in the middle of it, or after it."""

    world: World

    def _append(self, kind: Kind, facts: Mapping[str, object]) -> None:
        if kind == Kind.STOP:  # written from within a point
            super()._append(kind, facts)
            return
        self.world.point(f"{kind}<")
        size = self._size
        super()._append(kind, facts)
        self.world.point(f"{kind}>", lambda: os.ftruncate(self.fileno(), (size + self._size) // 2))
        if kind == Kind.TAKEN:
            self.world.taken.add(facts["job"])
        if kind == Kind.STARTED:
            self.world.pass_time(self.world.life.payload_s)


class MemoryTransport:
    """The embedded server's application, called in this process (the interface of `pilot.net.transport.Transport`)."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        **_more: Any,
    ) -> Answer:
        world, name = self._world, url.rpartition("/")[2]
        point = _state(body) or name
        world.asks(name)
        world.point(f"{point}<")
        if world.server.is_away():
            raise ServerUnavailable(f"{method} {url}: connection refused")
        answer = world.server.http(method, url, body, query)
        world.point(f"{point}>")
        if answer is None or world.server.is_away():
            raise ServerUnavailable(f"{method} {url}: no answer", maybe_done=True)
        world.heard(name, body, query, answer)
        return answer

    def interrupt(self) -> None:
        """No call is in flight while main runs."""

    def close(self) -> None:
        """There is no connection."""


def _state(body: bytes | None) -> str:
    """The state that an update tells."""
    return str(json.loads(body).get("job_status", "")) if body else ""


class MemoryLanes:
    """Moves files to and from the embedded server's store (the interface of `pilot.staging.lanes.Lanes`)."""

    def __init__(self, world: World) -> None:
        self._world = world

    def move(self, transfer: Transfer, deadline: Any, stop: Stop, progress: Any = None, mercy: Any = None) -> Moved:
        """The one file of `move_all`."""
        ((_, end),) = self.move_all([transfer], deadline, stop, progress, mercy)
        if isinstance(end, StageError):
            raise end
        return end

    def move_all(
        self, transfers: Iterable[Transfer], _deadline: Any, stop: Stop, _progress: Any = None, mercy: Any = None
    ) -> Iterator[tuple[Transfer, Moved | StageError]]:
        """One after the other."""
        for transfer in transfers:
            try:
                end: Moved | StageError = self._moved(transfer, stop, mercy)
            except StageError as error:
                end = error
            yield transfer, end

    def _moved(self, transfer: Transfer, stop: Stop, mercy: Any) -> Moved:
        world, obedience, route = self._world, Obedience(stop, mercy), transfer.routes[0]
        fault = world.next_move()
        world.point(f"{transfer.direction}<")
        obedience.check()
        if transfer.direction == "out":
            world.stores(transfer)
        if not world.server.path(route.source).exists():
            raise FileMissing(f"{transfer.name}: it is not there", transfer.direction)
        content = world.server.path(route.source).read_bytes()
        world.point(f"{transfer.direction}|")
        world.pass_time(fault.seconds)
        obedience.check()
        if fault.error:
            raise STAGE_KINDS.get(fault.error, TransferFailed)(f"{transfer.name}: a fault", transfer.direction)
        there = world.server.path(route.destination)
        if there.exists() and not transfer.overwrite and there.read_bytes() != content:
            raise Exists(f"{transfer.name}: another file is there", transfer.direction)
        self._arrive(route.destination, content)
        world.met[f"{'log' if transfer.name.endswith('.tgz') else 'file'} moved {transfer.direction}"] += 1
        world.point(f"{transfer.direction}>")
        return Moved(transfer, route, len(content), Checksum("adler32", f"{zlib.adler32(content):08x}"))

    def _arrive(self, url: str, content: bytes) -> None:
        self._world.server.put(url, content)

    def warm(self, _urls: Any = ()) -> None:
        """There is no process."""

    def trust(self, _origins: Any) -> None:
        """There are no credentials."""

    def pids(self) -> set[int]:
        return set()

    def close(self) -> None:
        """Likewise."""

    retire = close
