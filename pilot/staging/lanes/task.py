"""Task: one transfer on its way: which route and hop is next, and what a failure means for it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pilot.staging.lanes.standing import Standing
from pilot.staging.order import plain
from pilot.staging.transfer import Hop, Moved, Route, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Denied, Exists, Mismatch, NoSpace, StageError, Stalled, Unreachable
from pilot.values.events import events
from pilot.values.names import Checksum, Url

log = events(__name__)

# The retry policy. Every route is tried once before any is tried again: a second replica is quicker than a
# pause. Trouble that may pass is worth three tries of a route, with pauses of up to 1, 2, ... 30 s drawn evenly
# (pods that fail together do not come back together), and for outputs as many as `patience` has room for: they are
# what the whole job was for (promise P4). When patience is over, nothing is tried a second time; the last pause is
# cut so that one try comes just then. Bytes that arrived wrong are sent once more; an answer that will be the same
# (missing, denied, ...) ends its route.
_TRIES = 3
_MISMATCH_TRIES = 2
_DIED_TRIES = 2
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_LEAST_S = 1.0
"""A try is not begun when less is left for it."""


class LaneDied(Unreachable):
    """The process ended in the middle of a file: if a second one does too, a third would."""


class OutOfTimeError(Stalled):
    """A try was ended since the time for all tries was over, which says nothing of the storage."""


@dataclass
class _Tried:
    """What has become of a route so far."""

    route: Route
    tries: int = 0
    error: StageError | None = None

    def worth_another(self) -> bool:
        """Whether it may be walked again, or for the first time."""
        return self.error is None or self.tries < _allowed(self.error)


@dataclass(frozen=True, slots=True)
class Step:
    """What is next for a file: a hop, or the deletion of a copy that it has only passed through.

    ``transfer`` is the file as it is known by now; ``last``: there is no other way.
    """

    transfer: Transfer
    hop: Hop
    overwrite: bool = False
    last: bool = True
    delete: bool = False


class Task:
    """One transfer, from its first attempt to its end. It is told what happened, and says what is next."""

    def __init__(
        self, transfer: Transfer, standing: Standing, deadline: Deadline, total_s: float, patience_s: float | None
    ) -> None:
        """``total_s``: for all tries, from the first on.

        ``patience_s``: so long it is tried again, from when it first came no further; None: three times each way.
        """
        self.transfer = transfer
        self.deadline = deadline
        self.not_before = Deadline.after(0, deadline.clock)
        self._standing = standing
        self._total_s = total_s
        self._patience_s = patience_s
        self._began: Deadline | None = None
        self._patience: Deadline | None = None
        self._tried = [_Tried(route) for route in transfer.routes]
        self._open: Sequence[_Tried] = self._tried
        self._now: _Tried | None = None
        self._hop = 0
        self._known = transfer
        self._left: dict[Url, Hop] = {}
        self._passing: list[Hop] = []
        self._tokens: set[object] = set()
        self._end: Moved | StageError | None = None
        self.sent_again = 0
        self.credentials: object = None

    @property
    def refused(self) -> bool:
        """Whether it was refused for its credential: a new one may come before its next try is due."""
        return any(isinstance(one.error, Denied) for one in self._tried)

    def renewed(self) -> None:
        """A credential has been replaced: what was refused for the old one is tried now."""
        self._open = [one for one in self._tried if isinstance(one.error, Denied)]
        self.not_before = Deadline.after(0, self.deadline.clock)

    @property
    def end(self) -> Moved | StageError | None:
        """How it ended; None as long as there is something to do."""
        return None if self._passing and self._now is None else self._end

    @property
    def left(self) -> list[Hop]:
        """What may lie at a storage, and is not to stay there if nothing more can be done."""
        return [*self._passing, *self._left.values()]

    @property
    def limit(self) -> Deadline:
        """The end of all tries: so long after the first one, or when the caller's time is over."""
        if self._began is None:
            self._began = Deadline.after(0, self.deadline.clock)
        return self.deadline.sooner(Deadline(self._began.at + self._total_s, self.deadline.clock))

    def step(self) -> Step:
        """What is to be done now."""
        if self._now is None and self._passing:
            return Step(self.transfer, self._passing[-1], delete=True)
        if self._now is None:
            self._now = self._best()
            self._hop, self._known = 0, self.transfer
        hop = self._now.route.hops[self._hop]
        overwrite = self.transfer.overwrite or self._is_ours(hop, self._now.route)
        last = not any(one is not self._now and one.worth_another() for one in self._tried)
        return Step(self._known, hop, overwrite, last)

    def _is_ours(self, hop: Hop, route: Route) -> bool:
        """Whether what is at its destination can only be what a broken attempt of ours has left.

        Two protocols of one storage reach one file.
        """
        endpoints = {left.route.endpoint for left in self._tried if left.route.destination in self._left} - {None}
        return hop.destination in self._left or (hop is route.hops[-1] and route.endpoint in endpoints)

    def _best(self) -> _Tried:
        """Of the open routes that were walked least, the first one by way of storages in good standing."""
        least = min(one.tries for one in self._open)
        candidates = {one.route: one for one in self._open if one.tries == least}
        return candidates[self._standing.sort(list(candidates))[0]]

    def done(self, step: Step, answer: dict[str, Any], seconds: float) -> None:
        """A step is done and verified; the next hop is to bring the very same bytes."""
        if step.delete:
            self._passing.remove(step.hop)
            return
        assert self._now is not None  # noqa: S101 - for mypy: a route is under way
        self._standing.worked(step.hop)
        self._left.pop(step.hop.destination, None)
        if step.hop.passing:
            self._passing.append(step.hop)
        checksum = Checksum("adler32", answer["adler32"]) if answer["adler32"] else self._known.checksum
        self._known = replace(self._known, size=answer["size"], checksum=checksum)
        self._hop += 1
        if self._hop == len(self._now.route.hops):
            route, size, there = self._now.route, answer["size"], answer["there"]
            self._finish(Moved(self.transfer, route, size, checksum, seconds, there, answer["verified"]))
            self._now = None

    def failed(
        self, step: Step, error: StageError, *, key: object = None, writing: str = "", silent_s: float = 0.0
    ) -> None:
        """A step has failed: the transfer is given up, or its next attempt has its time.

        Args:
            step: the step.
            error: why.
            key: with which credentials, if with any.
            writing: where it may have left something.
            silent_s: how long before now its last byte has moved.
        """
        if step.delete:
            log.warning("something may be left at a storage", url=plain(step.hop.destination), why=str(error))
            self._passing.remove(step.hop)
            return
        assert self._now is not None  # noqa: S101 - for mypy: a route is under way
        failed, self._now = self._now, None
        if isinstance(error, OutOfTimeError) and failed.error is not None:
            why = str(error).removeprefix(f"{self.transfer.name}: ")
            error = type(failed.error)(f"{failed.error}; then {why}", self.transfer.direction)
        self._standing.failed(step.hop, error)
        failed.error = error
        if not self._with_new_token(key, error):
            failed.tries += 1
        if writing:
            self._left[Url(writing)] = replace(step.hop, destination=Url(writing))
        if _hopeless(step, failed.route, error):
            self._finish(error)
        else:
            self._go_on(error, silent_s)

    def _finish(self, end: Moved | StageError) -> None:
        """The end is known; what a broken attempt may have left somewhere is to be deleted before it is told."""
        self._end = end
        self._passing += self._left.values()
        self._left.clear()

    def _with_new_token(self, key: object, error: StageError) -> bool:
        """Whether it was denied with a token, for the first time: a storage may know a fresh one only in a moment."""
        if not isinstance(error, Denied) or not key or key in self._tokens:
            return False
        self._tokens.add(key)
        return True

    def _go_on(self, error: StageError, silent_s: float) -> None:
        """Decide once, at one moment, which routes are still open and when the next is walked; or that none is."""
        now, limit = self.deadline.clock.monotonic(), self.limit.at
        if self._patience is None:
            end = math.inf if self._patience_s is None else now - silent_s + self._patience_s
            self._patience = Deadline(end, self.deadline.clock)
        left_s = self._patience.at - now
        self._open = [one for one in self._tried if one.error is None or (left_s > 0 and self._again(one))]
        tries = min((one.tries for one in self._open), default=0)
        pause_s = min(_pause(tries, error), left_s) if tries else 0.0
        if now + pause_s >= limit:  # then there is time for one more, or none
            pause_s = (limit - now) / 2
        if not self._open or limit - now - pause_s < _LEAST_S:
            self._finish(self._last_word(error))
        else:
            self.not_before = Deadline(now + pause_s, self.deadline.clock)

    def _again(self, one: _Tried) -> bool:
        """Whether a route that has failed may be walked again, as long as there is patience."""
        retryable = one.error is not None and one.error.retryable and not isinstance(one.error, LaneDied)
        is_patient = self.transfer.direction == "out" and self._patience_s is not None
        return one.worth_another() or (is_patient and retryable)

    def _last_word(self, error: StageError) -> StageError:
        """The last error; with several routes its text has all their reasons."""
        reasons = [str(one.error) for one in self._tried if one.error is not None]
        if len(reasons) < 2:
            return error
        told = "; ".join(reason.removeprefix(f"{self.transfer.name}: ") for reason in reasons)
        return type(error)(f"{self.transfer.name}: none of {len(reasons)} ways worked: {told}", self.transfer.direction)


def _hopeless(step: Step, route: Route, error: StageError) -> bool:
    """Whether no other route could do better: another file is at the target, or the local disk is full."""
    if isinstance(error, Exists):
        return step.hop.destination == route.destination
    return isinstance(error, NoSpace) and step.hop.destination.scheme == "file"


def _pause(tries: int, error: StageError) -> float:
    """Seconds until the next try: drawn, or what the storage has asked for if that is more."""
    longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(tries - 1, 10))
    return max(random.uniform(0, longest), error.pause_s)  # noqa: S311 - no secret


def _allowed(error: StageError) -> int:
    """How many tries of a route a failure of this kind is worth."""
    if isinstance(error, Mismatch):
        return _MISMATCH_TRIES
    if isinstance(error, LaneDied):
        return _DIED_TRIES
    return _TRIES if error.retryable else 1
