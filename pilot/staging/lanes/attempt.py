"""Attempt: one order to a lane, and the limits that its parent holds over it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pilot.staging.lanes.task import OutOfTimeError, Step, Task
from pilot.staging.lanes.wallet import Identity
from pilot.staging.order import VERIFY_BYTES_PER_S, partial_url, plain
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError, Stalled

_CRAWL_BYTES_PER_S = 1000
"""Fewer bytes than that, on average over the idle limit, are none: a server that drips is a server that stalls."""

_GUESS_S = 0.5
"""A pace is known after so many seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one copy may take. Times in seconds.

    Args:
        idle_s: the window in which bytes must move.
        total_s: all tries of one file.
        slow_s: the window over which a copy that has an alternative must reach ``slow_bytes_per_s``; 0: never.
        slow_bytes_per_s: see there.
    """

    idle_s: float = 60.0
    total_s: float = 6 * 3600.0
    slow_s: float = 300.0
    slow_bytes_per_s: float = 1e6


class Attempt:
    """One order: who gives it, to whom, and from the moment that its lane can begin with it, how it goes."""

    def __init__(
        self,
        task: Task | None,
        step: Step,
        message: dict[str, Any],
        identities: tuple[Identity, Identity],
        limits: Limits,
        until: tuple[Deadline, Deadline],
    ) -> None:
        """``until``: the caller's deadline, and the end of the file's total limit."""
        self.task = task
        self.step = step
        self.message = message
        self.identities = identities
        self._limits = limits
        self._deadline, self.limit = until
        self.begin()

    def begin(self) -> None:
        """The lane has nothing else to do before this."""
        self.moved = 0
        self.writing = ""
        self._began = time.monotonic()
        self._idle = Deadline.after(self._limits.idle_s)
        self._counted = 0
        self._sent_s = 0.0
        self._moved_at = self._began
        self._slow = Deadline.after(self._limits.slow_s)
        self._paced = 0

    @property
    def key(self) -> frozenset[Identity]:
        """Who the lane must be: a new token is a new lane."""
        return frozenset(identity for identity in self.identities if identity != Identity())

    @property
    def login(self) -> Identity:
        """Who a root:// connection of the lane logs in as."""
        return next((identity for identity in reversed(self.identities) if identity != Identity()), Identity())

    @property
    def took_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    @property
    def silent_s(self) -> float:
        """Seconds since its last byte moved, or since it began."""
        return time.monotonic() - self._moved_at

    def account(self) -> dict[str, object]:
        """What a log line tells of it: how far it came, and how fast (bytes per second)."""
        hop = self.step.hop
        return {
            "file": self.step.transfer.name,
            "source": plain(hop.source),
            "destination": plain(hop.destination),
            "bytes": self.moved,
            "speed": round(self.moved / max(self.took_s, 1e-3)),
            "seconds": self.took_s,
            "verifying": self.took_s - self._sent_s if self._sent_s else None,
        }

    def heard(self, message: dict[str, Any]) -> None:
        """Take a message that is not the answer."""
        if message.get("progress", 0) > self.moved:
            self.moved = message["progress"]
            self._moved_at = time.monotonic()
            if self.moved - self._counted >= self._enough():
                self._counted = self.moved
                self._idle = Deadline.after(self._limits.idle_s)
        elif "verifying" in message:
            self._idle = Deadline.after(self._limits.idle_s + message["verifying"] / VERIFY_BYTES_PER_S)
            self._slow = Deadline.never()
            self._sent_s = self.took_s
        elif "writing" in message:
            hop = self.step.hop
            places = {"target": hop.destination, "beside": partial_url(hop.source, hop.destination)}
            self.writing = places.get(message["writing"], "")

    def _enough(self) -> float:
        """Bytes that count as movement: a small file's last ones do, too."""
        left = (self.step.transfer.size or 0) - self._counted
        crawl = _CRAWL_BYTES_PER_S * self._limits.idle_s
        return max(1, min(crawl, left)) if left > 0 else crawl

    def left(self) -> float:
        """How long to wait for the next message, in seconds."""
        slow = self._slow.left() if self._hurried() else self.limit.left()
        return min(self._idle.left(), self.limit.left(), slow)

    def still_s(self) -> float:
        """How long the rest takes at the pace so far, in seconds; 0 as long as that is a guess."""
        if not self.moved or not self.step.transfer.size or self.took_s < _GUESS_S:
            return 0.0
        return (self.step.transfer.size - self.moved) * self.took_s / self.moved

    def check(self) -> None:
        """Raise Stalled if a limit is reached."""
        after = f"after {self.moved} bytes"
        if self._deadline.expired():
            raise self.error(OutOfTimeError, f"the time that was left is over {after}")
        if self.limit.expired():
            raise self.error(OutOfTimeError, f"not done within {self._limits.total_s:g} s, {after}")
        if self._idle.expired():
            few = self.moved - self._counted
            what = f"only {few} bytes" if few else "nothing"
            raise self.error(Stalled, f"{what} moved for {self._limits.idle_s:g} s, {after}")
        if self._hurried() and self._slow.expired():
            self._check_pace(after)

    def _hurried(self) -> bool:
        return not self.step.last and self._limits.slow_s > 0

    def _check_pace(self, after: str) -> None:
        if self.moved - self._paced < self._limits.slow_bytes_per_s * self._limits.slow_s:
            pace = f"{self._limits.slow_bytes_per_s:g} bytes per second over {self._limits.slow_s:g} s"
            raise self.error(Stalled, f"slower than {pace}, {after}, and there is another way")
        self._paced = self.moved
        self._slow = Deadline.after(self._limits.slow_s)

    def error(self, kind: type[StageError], reason: str) -> StageError:
        """An error of this transfer."""
        return kind(f"{self.step.transfer.name}: {reason}", self.step.transfer.direction)
