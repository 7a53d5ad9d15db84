"""The point service: what a hyper-parameter job asks of and tells to iDDS, the event service and the checkpoint cache.

Main hands it errands and goes on; answers come through the mailbox. Each errand is a row of calls on a connection of
its own, tried again until the service is closed; a few threads run them, so that a slow answer holds nobody else up.
The order for a point is fixed (hpo-contract.md 10.3): loss, event, checkpoint. Each call can be made twice: a loss is
looked for before it is told, as iDDS would overwrite it, and what got no answer is asked for.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pilot.files.folder import Folder
from pilot.panda.checkpoints import CheckpointClient
from pilot.panda.events import EventClient, EventRange
from pilot.panda.idds import Idds
from pilot.panda.mailbox import Mailbox
from pilot.panda.wire import Wire
from pilot.runner.hpo.book import Book, Lease
from pilot.runner.hpo.errands import Errands
from pilot.runner.hpo.keeper import Keeper
from pilot.runner.hpo.messages import (
    Closed,
    Lost,
    Message,
    Overview,
    Prune,
    Ready,
    Refused,
    Saved,
    Steps,
    Taken,
    Useless,
)
from pilot.values.deadline import Deadline
from pilot.values.errors import CredentialError, ServerError, ServerRefused
from pilot.values.events import events
from pilot.values.hpo import Point, PointWork
from pilot.values.stop import Waitable

log = events(__name__)

_FIRST, _USUAL, _LAST = 0, 1, 2
_DRY_POINT = "123"
_ENDED = ("finished", "done", "merged")
_LOOK_S = 0.2  # between two looks whether the server is heard again


@dataclass(frozen=True, slots=True)
class Lines:
    """One thread's connections. ``progress`` reports intermediate losses and returns whether to prune."""

    wire: Wire
    idds: Idds
    events: EventClient
    checkpoints: CheckpointClient
    progress: Callable[[str, Steps], bool]

    def interrupt(self) -> None:
        """End the call in flight."""
        self.wire.interrupt()
        self.idds.interrupt()

    def close(self) -> None:
        """Close the connections."""
        self.wire.close()
        self.idds.close()


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose points these are: the job, and its task."""

    job_id: int
    work: PointWork
    folder: Path
    checkpoint_bytes: int


class PointService:
    """Threads that talk for a hyper-parameter job. To be closed."""

    def __init__(
        self,
        asker: Asker,
        connect: Callable[[], Lines],
        book: Book,
        silent: Callable[[], bool],
        threads: int,
        limit: Deadline | None = None,
        wakers: Collection[Waitable] = (),
    ) -> None:
        """Start it.

        Args:
            asker: the job.
            connect: makes the connections of a thread.
            book: gets each step.
            silent: whether PanDA was silent for so long that the job may be somebody else's: nothing is told then.
            threads: how many errands may be under way at once.
            limit: so long it is tried to start the first of them; ResourceError then.
            wakers: what ends that earlier.
        """
        self.mailbox: Mailbox[Message] = Mailbox()
        self._asker = asker
        self._book = book
        self._silent = silent
        self._held: dict[str, int] = {}
        self._finished: set[str] = set()
        self._ended: frozenset[tuple[str, ...]] = frozenset()
        self._numbers = itertools.count()
        self._errands = Errands(connect, threads, lambda error: self.mailbox.put(Refused(error)), limit, wakers)
        self._keeper = Keeper(asker.work, asker.folder, asker.checkpoint_bytes, self._errands.pause)

    # --- what main asks for -------------------------------------------------------------------------

    def take(self, count: int) -> None:
        """Ask for so many points; `Taken` comes, and a message for each, or `Refused`."""
        self._errands.add(_FIRST, lambda lines: self._take(lines, count))

    def close(self, lease: Lease, loss: float) -> None:
        """Tell a loss and finish the event; `Closed` or `Lost` comes."""
        self._errands.add(_FIRST, lambda lines: self._close(lines, lease.event, lease.id, loss), awaited=True)

    def resume(self, event: str, point: str, loss: float) -> None:
        """The same for a point that an earlier life has measured."""
        self._errands.add(_FIRST, lambda lines: self._close(lines, event, point, loss), awaited=True)

    def confirm(self) -> None:
        """Ask which events have ended; `has_ended` tells, once `finish` has waited for it."""
        self._errands.add(_FIRST, self._confirm, awaited=True)

    def has_ended(self, event: str) -> bool:
        """Whether the server has the end of this event, as far as it has told."""
        return _key(event) in self._ended

    def save(self, lease: Lease, work: Callable[[], Folder], known: str, limit: Deadline) -> None:
        """Save the checkpoint in the directory that ``work`` opens, unless its digest is ``known``; `Saved` comes."""
        self._errands.add(_USUAL, lambda lines: self._save(lines, lease.id, work, known, limit), awaited=True)

    def report(self, point: str, steps: Steps) -> None:
        """Tell intermediate losses to an optimiser that prunes; `Prune` may come."""
        self._errands.add(_LAST, lambda lines: self._report(lines, point, steps))

    def overview(self) -> None:
        """Ask for all points; `Overview` comes."""
        self._errands.add(_LAST, self._overview)

    def again(self, lease: Lease) -> None:
        """Fetch the newest checkpoint of a point that is to be tried once more; `Ready` comes."""
        self._errands.add(_FIRST, lambda lines: self._again(lines, lease))

    def finish(self, limit: Deadline, *wakers: Waitable) -> bool:
        """Wait until all is told that can be told; False when the limit, or one of ``wakers``, came first."""
        return self._errands.finish(limit, *wakers)

    def shut(self) -> None:
        """End, whatever is under way."""
        self._errands.shut()

    # --- taking -------------------------------------------------------------------------------------

    def _take(self, lines: Lines, count: int) -> None:
        if self._asker.work.dry_run:
            self._take_dry()
            return
        began = time.monotonic()
        try:
            ranges = self._errands.persist(lambda: self._acquired(lines, count), lambda: self._found(lines))
        except (ServerRefused, CredentialError) as error:
            self.mailbox.put(Refused(error))
            return
        seconds = time.monotonic() - began
        numbered = [(one, next(self._numbers)) for one in ranges]
        for one, number in numbered:
            self._held[one.id] = number
            self._book.leased(one.id, one.process_id, number)
        self.mailbox.put(Taken(len(ranges), seconds))
        self._open_all(lines, numbered, began)

    def _take_dry(self) -> None:
        """One made-up point, as the wrapper has it; nobody is asked or told."""
        first = next(self._numbers) == 0
        self.mailbox.put(Taken(int(first), 0.0))
        if first:
            self._book.leased("", _DRY_POINT, 0)
            self.mailbox.put(Ready(Lease("", Point(_DRY_POINT, {}), 0), 0.0))

    def _acquired(self, lines: Lines, count: int) -> list[EventRange]:
        work = self._asker.work
        return lines.events.acquire(self._asker.job_id, 0, work.task_id, count, work.segment)

    def _found(self, lines: Lines) -> list[EventRange] | None:
        """Events that a lost answer has given us; None if there are none."""
        held = lines.events.held(self._asker.job_id, self._asker.work.task_id)
        return [one for one in held if one.id not in self._held] or None

    def _open_all(self, lines: Lines, ranges: list[tuple[EventRange, int]], began: float) -> None:
        """Turn events into points: one by one, or with one request for all where there are several."""
        task = self._asker.work.task_id
        listed: dict[str, Point] = {}
        if len(ranges) > 1:
            points = self._errands.persist(lambda: lines.idds.points(task))
            listed = {point.id: point for point in points}
            self.mailbox.put(Overview(points))
        for one, number in ranges:
            self._errands.add(_FIRST, self._opening(one, number, listed.get(one.process_id), began))

    def _opening(self, one: EventRange, number: int, known: Point | None, began: float) -> Callable[[Lines], None]:
        return lambda lines: self._open_one(lines, one, number, known, began)

    def _open_one(self, lines: Lines, one: EventRange, number: int, known: Point | None, began: float) -> None:
        task = self._asker.work.task_id
        try:
            point = known or self._errands.persist(lambda: lines.idds.point(task, one.process_id))
        except (ServerRefused, CredentialError) as error:
            self._leave(one.process_id, str(error))
            return
        if point is None:
            self._leave(one.process_id, f"iDDS does not know point {one.process_id} of task {task}")
        elif point.loss is not None:
            self._close_event(lines, one.id, point.id, point.loss, known=True)
        else:
            checkpoint = self._keeper.fetch(lines.checkpoints, point.id)
            self.mailbox.put(Ready(Lease(one.id, point, number, checkpoint), time.monotonic() - began))

    def _again(self, lines: Lines, lease: Lease) -> None:
        began = time.monotonic()
        checkpoint = self._keeper.fetch(lines.checkpoints, lease.id) or lease.checkpoint
        self.mailbox.put(Ready(replace(lease, checkpoint=checkpoint), time.monotonic() - began))

    def _leave(self, point: str, why: str) -> None:
        self._book.left(point, why)
        self.mailbox.put(Useless(point, why))

    # --- closing ------------------------------------------------------------------------------------

    def _close(self, lines: Lines, event: str, point: str, loss: float) -> None:
        if self._asker.work.dry_run:
            self.mailbox.put(Closed(point, loss))
            return
        try:
            before = self._tell(lines, point, loss)
        except (ServerRefused, CredentialError) as error:
            log.error("a loss could not be told", point=point, loss=loss, why=str(error))
            self.mailbox.put(Lost(point, str(error)))
            return
        if before not in (None, loss):
            log.warning("another loss was told before: it stays", point=point, there=before, ours=loss)
        self._book.told(point)
        self._close_event(lines, event, point, loss if before is None else before, known=before not in (None, loss))

    def _tell(self, lines: Lines, point: str, loss: float) -> float | None:
        """Tell it, unless one is there already; what was there before, None if ours was the first."""
        task = self._asker.work.task_id
        while self._silent():
            self._errands.pause(_LOOK_S)
        there = self._errands.persist(lambda: lines.idds.point(task, point))
        if there is None:
            raise ServerRefused(f"iDDS does not know point {point} of task {task} any more")
        if there.loss is not None:
            return there.loss

        def confirmed() -> bool | None:
            found = lines.idds.point(task, point)
            return True if found is not None and found.loss is not None else None

        def tell() -> bool:
            lines.idds.tell(task, point, loss)
            return True

        self._errands.persist(tell, confirmed)
        return None

    def _close_event(self, lines: Lines, event: str, point: str, loss: float, *, known: bool) -> None:
        try:
            command = self._errands.persist(lambda: lines.events.finish(event))
        except (ServerRefused, CredentialError) as error:
            if not self._is_finished(lines, event):
                log.error("an event could not be finished", point=point, event=event, why=str(error))
                self.mailbox.put(Lost(point, str(error)))
                return
            command = ""
        self._finished.add(point)
        self._keeper.drop(lines.checkpoints, point)
        self._book.closed(point)
        self.mailbox.put(Closed(point, loss, command, known))

    def _is_finished(self, lines: Lines, event: str) -> bool:
        """What the server shows; no answer counts as no."""
        asker = self._asker
        try:
            statuses = self._errands.persist(lambda: lines.events.statuses(asker.job_id, asker.work.task_id))
        except (ServerRefused, CredentialError):
            return False
        return statuses.get(_key(event)) in _ENDED

    def _confirm(self, lines: Lines) -> None:
        asker = self._asker
        try:
            statuses = self._errands.persist(lambda: lines.events.statuses(asker.job_id, asker.work.task_id))
        except (ServerRefused, CredentialError) as error:
            log.warning("the server does not tell which events have ended", why=str(error))
            return
        self._ended = frozenset(key for key, status in statuses.items() if status in _ENDED)

    # --- the rest -----------------------------------------------------------------------------------

    def _save(self, lines: Lines, point: str, work: Callable[[], Folder], known: str, limit: Deadline) -> None:
        is_over = partial(self._finished.__contains__, point)
        digest = self._keeper.save(lines.checkpoints, point, work, known, limit, is_over)
        self.mailbox.put(Saved(point, digest))

    def _report(self, lines: Lines, point: str, steps: Steps) -> None:
        try:
            if lines.progress(point, steps):
                self.mailbox.put(Prune(point))
        except (ServerError, CredentialError) as error:
            log.warning("an intermediate loss could not be told", point=point, why=str(error))

    def _overview(self, lines: Lines) -> None:
        if self._asker.work.dry_run:
            return
        try:
            self.mailbox.put(Overview(self._errands.persist(lambda: lines.idds.points(self._asker.work.task_id))))
        except (ServerRefused, CredentialError) as error:
            log.warning("the study's points could not be listed", why=str(error))
            self.mailbox.put(Overview(()))


def _key(event: str) -> tuple[str, ...]:
    """What tells an event in the server's list."""
    return tuple(event.split("-")[:4])
