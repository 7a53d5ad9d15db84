"""Obedience: how a transfer obeys a stop, and the mercy that a stop may have with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pilot.values.deadline import Deadline
from pilot.values.stop import Stop


@dataclass(frozen=True, slots=True)
class Mercy:
    """What a stop leaves to a transfer: it may end ``until()``, which is asked again when ``hurry`` comes.

    What is left behind of one that did not end may be removed until ``clear()``.
    """

    until: Callable[[], Deadline]
    clear: Callable[[], Deadline]
    hurry: Stop


class Obedience:
    """How a transfer obeys a stop: at once, or by when the time is over that it is left."""

    def __init__(self, stop: Stop | None, mercy: Mercy | None = None) -> None:
        """Without ``stop`` it obeys nobody."""
        self._stop = stop
        self._mercy = mercy

    def wakers(self) -> list[Stop]:
        """What a wait must also watch: what has been asked for is known already."""
        stops = (self._stop, self._mercy.hurry if self._mercy else None)
        return [stop for stop in stops if stop is not None and stop.reason is None]

    def left(self) -> float:
        """Seconds that are left to the transfer; infinite as long as no stop was asked for."""
        if self._stop is None or self._stop.reason is None:
            return math.inf
        return self._mercy.until().left() if self._mercy else 0.0

    def clearing(self, limit: Deadline) -> Deadline:
        """By when the traces of a killed transfer must be removed, ``limit`` at the latest."""
        return limit.sooner(self._mercy.clear()) if self._mercy else limit

    def check(self, still_s: float = 0.0) -> None:
        """Raise `Stopped` if less is left than it still takes, or nothing."""
        left_s = self.left()
        if self._stop is not None and (left_s <= 0 or still_s > left_s):
            raise self._stop.error()
