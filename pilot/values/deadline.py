"""Clock, Deadline and Budget: how long something may still take.

Every wait takes a Deadline on the monotonic clock; wall time appears in messages only.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime


class Clock:
    """The real clock. Tests hand down another one that jumps instead of waiting."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock, in UTC: for messages and records only."""
        return datetime.now(UTC)

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait on a held condition until it is notified or ``seconds`` are over (None: no limit)."""
        condition.wait(seconds)


REAL_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds; infinite where there is none."""

    at: float
    clock: Clock = REAL_CLOCK

    @classmethod
    def after(cls, seconds: float, clock: Clock = REAL_CLOCK) -> Deadline:
        """The moment ``seconds`` from now."""
        return cls(clock.monotonic() + seconds, clock)

    @classmethod
    def never(cls, clock: Clock = REAL_CLOCK) -> Deadline:
        """A deadline that does not come."""
        return cls(math.inf, clock)

    def left(self) -> float:
        """Seconds left, never below 0; infinite without a deadline."""
        return max(0.0, self.at - self.clock.monotonic())

    def timeout(self) -> float | None:
        """What `select` and its like want: seconds left, or None without a deadline."""
        return None if math.isinf(self.at) else self.left()

    def expired(self) -> bool:
        """Whether the moment has come."""
        return self.left() <= 0

    def sooner(self, other: Deadline) -> Deadline:
        """The earlier of the two."""
        return self if self.at <= other.at else other


@dataclass(frozen=True, slots=True)
class Budget:
    """The grace period of a stop, split in front: shares in seconds after the stop was asked for.

    The margin of promise P3 (5 s or 20 %, the smaller) stays unused. Of the rest the payload has 40 % to
    obey the soft signal (P3 wants the report to be sure of its share), outputs that are on their way have 60 %,
    the log 75 %, the report 95 %, and what is left is for leaving.
    """

    payload_s: float
    outputs_s: float
    save_s: float
    report_s: float
    leave_s: float

    @classmethod
    def of(cls, grace_s: float) -> Budget:
        """Split ``grace_s`` seconds.

        >>> Budget.of(30)
        Budget(payload_s=10.0, outputs_s=15.0, save_s=18.75, report_s=23.75, leave_s=25.0)
        """
        usable = grace_s - min(5.0, 0.2 * grace_s)
        return cls(*(share * usable for share in (0.4, 0.6, 0.75, 0.95, 1.0)))
