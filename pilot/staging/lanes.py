"""Lanes: moves one file after the other in a process of their own, and holds the limits.

The process (`pilot.staging.worker`) can be stuck in a library for as long as it likes: what counts is what
is seen from here, and SIGKILL is the answer to a limit or a stop. Then the partial target is removed here.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from pilot.staging.lane import Lane, LaneSettings
from pilot.staging.obedience import Mercy, Obedience
from pilot.staging.order import VERIFY_BYTES_PER_S
from pilot.staging.partial import partial_path
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import STAGE_KINDS, Mismatch, StageError, Stalled, TransferFailed, Unreachable
from pilot.values.events import events
from pilot.values.names import Checksum
from pilot.values.stop import Stop

log = events(__name__)

__all__ = ["LaneSettings", "Lanes"]

# The retry policy. Trouble that may pass is tried three times, with pauses of up to 1, 2, ... 30 s drawn
# evenly (pods that fail together do not come back together), and for outputs until `patience_s` is over:
# they are what the whole job was for (promise P4). Bytes that arrived wrong are fetched once more; an answer
# that will be the same (missing, denied, ...) is final.
_TRIES = 3
_MISMATCH_TRIES = 2
_DIED_TRIES = 2
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0

_CLEAN_S = 3.0
"""How long the removal of what a killed upload left behind may take, in seconds: a stop waits for it."""


_GUESS_S = 0.5
"""A pace is known after so many seconds."""


class _LaneDied(Unreachable):
    """The process ended in the middle of a file: if a second one does too, a third would."""


class Lanes:
    """The transfer process, started when needed. One file at a time; used by one thread, which lives on."""

    def __init__(self, settings: LaneSettings) -> None:
        self._settings = settings
        self._lane: Lane | None = None
        self._ident = 0
        self._moving = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The transfer process, if there is one."""
        return self._lane.pid if self._lane is not None else None

    def pids(self) -> set[int]:
        """All processes that are ours to collect."""
        return set() if self._lane is None else {self._lane.pid}

    def warm(self, schemes: Iterable[str] = ()) -> None:
        """Start the process ahead of need and let it import what ``schemes`` want; waits for nothing."""
        with contextlib.suppress(OSError):  # `move` will meet it again, and tell
            self._running().send({"op": "warm", "schemes": sorted(schemes)})

    def move(
        self,
        transfer: Transfer,
        deadline: Deadline,
        stop: Stop,
        progress: Callable[[int], None] = lambda _: None,
        mercy: Mercy | None = None,
    ) -> Moved:
        """Move one file and verify it; ``progress`` gets the bytes of the present try.

        A stop ends it, at once or when the time that ``mercy`` leaves is over (or will not do, at the pace so
        far). Raises a StageError of the transfer's direction, or Stopped. Nothing partial is left behind.
        """
        limit = deadline.sooner(Deadline.after(self._settings.total_s, deadline.clock))
        patience = limit.sooner(Deadline.after(self._settings.patience_s, deadline.clock))
        obedience = Obedience(stop, mercy)
        tries = 0
        while True:
            obedience.check()
            tries += 1
            watch = _Watch(transfer, self._settings, deadline, limit, progress)
            try:
                return self._try(transfer, watch, obedience)
            except StageError as error:
                if limit.expired() or (tries >= _allowed(error) and not _worth_waiting(error, patience)):
                    raise
                log.warning("a transfer failed and is tried again", why=str(error), tries=tries)
            _pause(tries, limit, obedience)

    def retire(self) -> None:
        """End the process if it is idle: its memory is wanted elsewhere. The next `move` starts another."""
        if not self._moving:
            self.close()

    def close(self) -> None:
        """End the process: by the end of its input, or else by a signal."""
        if self._lane is not None:
            self._lane.end()
            self._lane = None

    def _running(self) -> Lane:
        if self._lane is not None and self._lane.gone():
            self.close()
        if self._lane is None:
            self._lane = Lane(self._settings)
        return self._lane

    def _try(self, transfer: Transfer, watch: _Watch, obedience: Obedience) -> Moved:
        """One attempt. However it ends without an answer, the process is killed and its traces removed."""
        order = {
            "op": "copy",
            "source": transfer.source,
            "destination": transfer.destination,
            "size": transfer.size,
            "checksum": str(transfer.checksum) if transfer.checksum else None,
            "credential": None,
            "link": transfer.direction == "in",
        }
        answer = None
        self._moving = True
        try:
            answer = self._ask(order, watch, obedience)
        finally:
            self._moving = False
            if answer is None:
                self._kill()
                self._clear(transfer, watch, obedience)
        if "error" in answer:
            kind = STAGE_KINDS.get(answer["error"]["kind"], TransferFailed)
            raise kind(f"{transfer.name}: {answer['error']['message']}", transfer.direction)
        done = answer["done"]
        return Moved(transfer, done["size"], Checksum("adler32", done["adler32"]))

    def _ask(self, order: dict[str, Any], watch: _Watch, obedience: Obedience) -> dict[str, Any]:
        """Send an order and wait for its answer; a process that was just leaving is replaced, once."""
        self._ident += 1
        order = order | {"id": self._ident}
        for _ in range(2):
            try:
                lane = self._running()
            except OSError as error:
                raise watch.error(Unreachable, f"the transfer process does not start: {error.strerror}") from error
            answer = self._wait(lane, watch, obedience) if lane.send(order) else None
            if answer is not None:
                return answer
            status = lane.end()
            self._lane = None
            if status != 0 or watch.moved:
                how = f"killed by signal {-status}" if status < 0 else f"status {status}"
                raise watch.error(_LaneDied, f"the transfer process died ({how}) after {watch.moved} bytes")
        raise watch.error(_LaneDied, "the transfer process leaves at once, without an answer")

    def _wait(self, lane: Lane, watch: _Watch, obedience: Obedience) -> dict[str, Any] | None:
        """The answer to the present order; None if the process ends without one."""
        while True:
            seconds = min(watch.left(), obedience.left())
            watched = [lane.fileno(), *(stop.fileno() for stop in obedience.wakers())]
            ready, _, _ = select.select(watched, [], [], seconds)
            if lane.fileno() in ready:
                for message in lane.messages():
                    if message.get("id") == self._ident and watch.answered(message):
                        return message
            if lane.ended:
                return None
            obedience.check(watch.still_s())
            watch.check()

    def _kill(self) -> None:
        if self._lane is not None:
            self._lane.kill()
            self._lane = None

    def _clear(self, transfer: Transfer, watch: _Watch, obedience: Obedience) -> None:
        """Remove what a killed process has left of its target; a best effort where that is a server."""
        if transfer.destination.scheme == "file":
            with contextlib.suppress(OSError):
                os.unlink(partial_path(transfer.destination.path))  # noqa: PTH108
        elif watch.moved:
            clean = obedience.clearing(Deadline.after(_CLEAN_S))
            order = {"op": "delete", "destination": transfer.destination}
            try:
                self._ask(order, _Watch(transfer, self._settings, clean, clean, lambda _: None), Obedience(None))
            except StageError:
                self._kill()


class _Watch:
    """The limits of one attempt: by when bytes must have moved, and by when all must be done."""

    def __init__(
        self,
        transfer: Transfer,
        settings: LaneSettings,
        deadline: Deadline,
        limit: Deadline,
        progress: Callable[[int], None],
    ) -> None:
        self._transfer = transfer
        self._settings = settings
        self._deadline = deadline
        self._limit = limit
        self._progress = progress
        self._idle = Deadline.after(settings.idle_s)
        self._began = time.monotonic()
        self.moved = 0

    def answered(self, message: dict[str, Any]) -> bool:
        """Take a message; True if it is the answer."""
        if "progress" in message and message["progress"] > self.moved:
            self.moved = message["progress"]
            self._idle = Deadline.after(self._settings.idle_s)
            self._progress(self.moved)
        elif "verifying" in message:
            self._idle = Deadline.after(self._settings.idle_s + message["verifying"] / VERIFY_BYTES_PER_S)
        return "done" in message or "error" in message

    def left(self) -> float:
        """How long to wait for the next message, in seconds."""
        return min(self._idle.left(), self._limit.left())

    def still_s(self) -> float:
        """How long the rest takes at the pace so far, in seconds; 0 as long as that is a guess."""
        took_s = time.monotonic() - self._began
        if not self.moved or not self._transfer.size or took_s < _GUESS_S:
            return 0.0
        return (self._transfer.size - self.moved) * took_s / self.moved

    def check(self) -> None:
        """Raise Stalled if a limit is reached."""
        if self._deadline.expired():
            raise self.error(Stalled, f"the time that was left is over after {self.moved} bytes")
        if self._limit.expired():
            raise self.error(Stalled, f"not done within {self._settings.total_s:g} s, after {self.moved} bytes")
        if self._idle.expired():
            raise self.error(Stalled, f"nothing moved for {self._settings.idle_s:g} s, after {self.moved} bytes")

    def error(self, kind: type[StageError], reason: str) -> StageError:
        """An error of this transfer."""
        return kind(f"{self._transfer.name}: {reason}", self._transfer.direction)


def _allowed(error: StageError) -> int:
    """How many tries a failure of this kind is worth."""
    if isinstance(error, Mismatch) and error.direction == "in":
        return _MISMATCH_TRIES
    if isinstance(error, _LaneDied):
        return _DIED_TRIES
    return _TRIES if error.retryable else 1


def _worth_waiting(error: StageError, patience: Deadline) -> bool:
    """Whether it is an output that a storage may take later."""
    return error.direction == "out" and error.retryable and not isinstance(error, _LaneDied) and not patience.expired()


def _pause(tries: int, limit: Deadline, obedience: Obedience) -> None:
    """Wait before the next try; a stop or the limit ends it."""
    longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(tries - 1, 10))
    pause = min(random.uniform(0, longest), limit.left(), obedience.left())  # noqa: S311 - no secret
    select.select(obedience.wakers(), [], [], pause)
