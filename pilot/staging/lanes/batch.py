"""Batch: some transfers under way at once: which lane does what, whom to wait for, and what is cleared at the end."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from pilot.processes.starting import is_scarce, patiently, why_scarce
from pilot.staging.lanes.attempt import Attempt
from pilot.staging.lanes.diskroom import DiskRoom
from pilot.staging.lanes.fleet import Fleet
from pilot.staging.lanes.lane import Lane
from pilot.staging.lanes.obedience import Obedience
from pilot.staging.lanes.task import LaneDied, Step, Task
from pilot.staging.order import partial_path, plain
from pilot.staging.transfer import Hop, Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import STAGE_KINDS, NoSpace, StageError, TransferFailed, Unreachable
from pilot.values.events import events
from pilot.values.names import Url
from pilot.values.stop import Stop

log = events(__name__)

Outcome = Moved | StageError

_CLEAN_S = 3.0
"""How long the removal of what killed uploads left behind may take, in seconds: a stop waits for it."""

_RENEWED_S = 1.0
"""Between two looks whether credentials were renewed, as long as a file waits that was refused for its own."""

_TOO_LARGE = os.strerror(errno.EFBIG)
"""So a process says that it has met the limit of `Lane.confine`."""

_SENT_AGAIN = 2
"""An order that met a lane on its way out is sent to another one so often."""


class Batch:
    """The loop: hand out orders, listen, hold the limits, and tell of each transfer that has ended."""

    def __init__(
        self,
        tasks: Sequence[Task],
        fleet: Fleet,
        attempt: Callable[[Task | None, Step], Attempt],
        credentials: Callable[[], object],
        obedience: Obedience,
        progress: Callable[[Transfer, int], None],
        disk: DiskRoom | None = None,
    ) -> None:
        """``attempt`` makes the order for a step, and may raise a StageError.

        ``credentials`` gives what differs when a file with one was replaced. Files that come to this machine may
        take what ``disk`` has; else NoSpace is raised.
        """
        self._waiting = deque(tasks)
        self._resting: list[Task] = []  # those that were found not to be due: the clock is not asked again
        self._credentials = credentials
        self._fleet = fleet
        self._attempt = attempt
        self._obedience = obedience
        self._progress = progress
        self._disk = disk
        self._ended: deque[tuple[Transfer, Outcome]] = deque()
        self._cleared_until = Deadline.never()

    def run(self) -> Generator[tuple[Transfer, Outcome], None, None]:
        """Each transfer with how it ended, as it ends. Raises Stopped. Nothing is left under way."""
        try:
            while self._waiting or self._busy():
                self._obedience.check()
                self._hand_out()
                if not self._ended:
                    self._listen()
                    self._hold_limits()
                while self._ended:
                    yield self._ended.popleft()
        finally:
            self._abandon()

    def _busy(self) -> list[Lane]:
        return [lane for lane in self._fleet.lanes if lane.orders]

    def _hand_out(self) -> None:
        """Give orders to lanes as long as there are lanes to take them."""
        self._resting = []
        for task in list(self._waiting):
            if not task.not_before.expired():
                if not self._is_renewed(task):
                    self._resting.append(task)
                    continue
                task.renewed()
            step = task.step()
            task.credentials = self._credentials()
            try:
                attempt = self._attempt(task, step)
                lane = self._fleet.lane_for(attempt)
            except StageError as error:
                self._waiting.remove(task)
                self._failed(task, step, error)
            except OSError as error:
                self._waiting.remove(task)
                self._failed(task, step, _not_started(task.transfer, error))
            else:
                if lane is not None:
                    self._waiting.remove(task)
                    self._send(lane, attempt)
                elif not self._fleet.shortage.here:  # all are busy: what comes behind must wait as well
                    return

    def _come_again(self, task: Task) -> None:
        """It waits for its time, or for a lane; whoever waits then must know of it."""
        self._waiting.appendleft(task)
        self._resting.append(task)

    def _is_renewed(self, task: Task) -> bool:
        """Whether it was refused for a credential, and one has been replaced since."""
        return task.refused and task.credentials != self._credentials()

    def _send(self, lane: Lane, attempt: Attempt) -> None:
        lane.orders.append(attempt)
        self._confine(lane)
        attempt.begin()
        if not lane.send(attempt.message):
            self._gone(lane)

    def _confine(self, lane: Lane) -> None:
        """A file whose size nobody knows may have what the others leave of the disk."""
        step = lane.orders[0].step
        comes_here = self._disk is not None and step.hop.destination.scheme == "file" and not step.delete
        lane.confine(self._disk.most(step.hop) if self._disk and comes_here and step.transfer.size is None else None)

    def _look(self, attempt: Attempt) -> None:
        """Count what has come of a file, which changes what the others may have. Raises NoSpace."""
        step = attempt.step
        if self._disk is not None and step.hop.destination.scheme == "file":
            self._disk.look(step.transfer, step.hop)
            for lane in self._busy():
                self._confine(lane)

    def _listen(self) -> None:
        """Wait until a lane has something to say, or it is time to look at the limits."""
        busy, wakers = self._busy(), self._obedience.wakers()
        seconds = min(
            self._obedience.left(),
            self._fleet.shortage.due.left() if self._waiting and self._fleet.shortage.here else math.inf,
            *(lane.orders[0].left() for lane in busy),
            *(min(task.not_before.left(), _RENEWED_S if task.refused else math.inf) for task in self._resting),
        )
        watched: list[Lane | Stop] = [*busy, *wakers]
        ready, _, _ = select.select(watched, [], [], None if math.isinf(seconds) else seconds)
        for lane in busy:
            if lane in ready:
                self._hear(lane)

    def _hear(self, lane: Lane) -> None:
        for message in lane.messages():
            head = lane.orders[0] if lane.orders else None
            if head is None or message.get("id") != head.message["id"]:
                continue
            if "done" in message or "error" in message:
                lane.orders.popleft()
                if lane.orders:
                    lane.orders[0].begin()
                self._answered(lane, head, message)
            elif "note" in message:
                log.info(message["note"], file=head.step.transfer.name, **message["keys"])
            else:
                self._moved(head, message)
        if lane.ended:
            self._gone(lane)

    def _moved(self, attempt: Attempt, message: dict[str, Any]) -> None:
        before = attempt.moved
        attempt.heard(message)
        if attempt.moved > before:
            self._look(attempt)
            self._progress(attempt.step.transfer, attempt.moved)

    def _answered(self, lane: Lane, attempt: Attempt, message: dict[str, Any]) -> None:
        task, step = attempt.task, attempt.step
        if task is None:
            return
        if "error" in message:
            told = message["error"]
            kind = STAGE_KINDS.get(told["kind"], TransferFailed)
            error = kind(f"{step.transfer.name}: {told['message']}", step.transfer.direction)
            error.pause_s = told.get("pause_s", 0.0)
            lane.tired = lane.tired or error.retryable
            if self._disk is not None and isinstance(error, NoSpace) and _TOO_LARGE in str(error):
                error = self._disk.error(step.transfer)
            self._failed(task, step, error, attempt)
        else:
            done = message["done"]
            attempt.moved = done.get("size", 0)
            log.debug("a file was moved", **attempt.account())
            self._look(attempt)
            # the lane's own time: several answers for files that were sent ahead may come at once
            task.done(step, done, done.get("seconds", 0.0))
            self._next(task)

    def _failed(self, task: Task, step: Step, error: StageError, attempt: Attempt | None = None) -> None:
        """An attempt has failed; what that means is the task's to say."""
        error.direction = step.transfer.direction
        account = attempt.account() if attempt else {"file": step.transfer.name, "source": plain(step.hop.source)}
        log.warning("a transfer failed", **account, why=str(error))
        key, writing = (attempt.key, attempt.writing) if attempt else (None, "")
        task.failed(step, error, key=key, writing=writing, silent_s=attempt.silent_s if attempt else 0.0)
        self._next(task)

    def _next(self, task: Task) -> None:
        if task.end is None:
            self._come_again(task)
        else:
            self._ended.append((task.transfer, task.end))

    def _gone(self, lane: Lane) -> None:
        """A lane has ended by itself, idle or in the middle of a file."""
        orders, lane.orders = lane.orders, deque()
        status = self._fleet.end(lane)
        head = orders[0] if orders else None
        if head is not None and (status != 0 or head.moved or head.writing):
            orders.popleft()
            self._clear([head])
            how = f"killed by signal {-status}" if status < 0 else f"status {status}"
            self._broken(head, head.error(LaneDied, f"the transfer process died ({how}) after {head.moved} bytes"))
        for order in reversed(orders):
            self._again(order)

    def _again(self, attempt: Attempt) -> None:
        """An order that nobody has begun with."""
        task = attempt.task
        if task is None:
            return
        task.sent_again += 1
        if task.sent_again > _SENT_AGAIN:
            self._broken(attempt, attempt.error(LaneDied, "the transfer process leaves at once, without an answer"))
        else:
            self._come_again(task)

    def _broken(self, attempt: Attempt, error: StageError) -> None:
        if attempt.task is not None:
            self._failed(attempt.task, attempt.step, error, attempt)

    def _hold_limits(self) -> None:
        """Kill what has reached a limit; raise Stopped if a stop leaves less than the rest takes."""
        for lane in self._busy():
            head = lane.orders[0]
            self._obedience.check(head.still_s())
            try:
                head.check()
            except StageError as error:
                self._kill(lane)
                self._clear([head])
                self._broken(head, error)

    def _kill(self, lane: Lane) -> None:
        """End a lane in the middle of its first order; the others go to another one."""
        for order in list(lane.orders)[:0:-1]:
            if order.task is not None:
                self._come_again(order.task)
        lane.orders.clear()
        self._fleet.kill(lane)

    def _abandon(self) -> None:
        """End all that is under way, and remove what it left."""
        busy = self._busy()
        heads = [lane.orders[0] for lane in busy]
        for lane in busy:
            self._kill(lane)
        self._clear(heads)
        for task in self._waiting:
            for hop in task.left:
                self._delete(task.transfer, hop)

    def _clear(self, killed: Sequence[Attempt]) -> None:
        """Remove what killed orders have left of their targets; a best effort where that is a server."""
        self._cleared_until = self._obedience.clearing(Deadline.after(_CLEAN_S))
        for attempt in killed:
            hop = attempt.step.hop
            if hop.destination.scheme == "file":
                with contextlib.suppress(OSError):
                    os.unlink(partial_path(hop.source, hop.destination.path))  # noqa: PTH108 - as the lane does
            elif attempt.writing:
                self._delete(attempt.step.transfer, replace(hop, destination=Url(attempt.writing)))

    def _delete(self, transfer: Transfer, hop: Hop) -> None:
        with contextlib.suppress(StageError, OSError):
            deletion = self._attempt(None, Step(transfer, hop, delete=True))
            ask(self._fleet, deletion, self._cleared_until)


def ask(fleet: Fleet, attempt: Attempt, limit: Deadline) -> Any:
    """Give an order in a lane of its own and wait for the answer: what it found. Raises its StageError."""
    try:
        lane = patiently(lambda: fleet.start(attempt), limit)
    except OSError as error:
        raise _not_started(attempt.step.transfer, error) from error
    lane.orders.append(attempt)
    try:
        lane.send(attempt.message)
        while not lane.ended and select.select([lane], [], [], limit.timeout())[0]:
            for message in lane.messages():
                if message.get("id") != attempt.message["id"]:
                    continue
                if "error" in message:
                    kind = STAGE_KINDS.get(message["error"]["kind"], TransferFailed)
                    raise kind(message["error"]["message"], attempt.step.transfer.direction)
                if "done" in message:
                    return message["done"]
        raise attempt.error(Unreachable, "no answer in time")
    finally:
        lane.orders.clear()
        fleet.kill(lane)


def _not_started(transfer: Transfer, error: OSError) -> StageError:
    """There is no process for it. What has lasted for longer than our patience is not tried again."""
    if not is_scarce(error):
        text = f"{transfer.name}: the transfer process does not start: {error.strerror}"
        return Unreachable(text, transfer.direction)
    text = f"{transfer.name}: no transfer process can be started: {why_scarce(error)}"
    return TransferFailed(text, transfer.direction)
