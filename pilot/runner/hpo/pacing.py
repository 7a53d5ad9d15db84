"""Pacing: how many points to ask for, when, and for how long to wait for the next generation (hpo-contract.md 9).

A point that is held without being evaluated costs one of its attempts if the pod dies, so none is fetched ahead
but for slots whose evaluation will end within a round trip, and only where evaluations are short against that.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

_SHORT = 100.0  # evaluations of less than so many round trips are short: waiting would cost 1 % of a slot
_EARLY = 1.5  # a point is asked for so many round trips before its slot will be free
_SAFETY = 1.1
_MOST_MEMORY = 200


@dataclass(slots=True)
class Pace:
    """What was seen of evaluations and round trips, in seconds."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_MEMORY))
    round_trips: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    @property
    def usual_s(self) -> float | None:
        """How long an evaluation takes; None before the first."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def longest_s(self) -> float | None:
        """Nine of ten are done by then; None before the first."""
        return sorted(self.seconds)[math.ceil(0.9 * len(self.seconds)) - 1] if self.seconds else None

    @property
    def round_trip_s(self) -> float | None:
        """From asking for a point to having it."""
        return statistics.median(self.round_trips) if self.round_trips else None

    def can_end(self, left_s: float) -> bool:
        """Whether an evaluation that begins now will probably end in time. Nobody knows before the first."""
        longest = self.longest_s
        return longest is None or _SAFETY * longest <= left_s

    def ahead_at(self, began: float) -> float:
        """When (on the same clock) a slot's next point is to be asked for; never for long evaluations."""
        usual, trip = self.usual_s, self.round_trip_s
        if usual is None or trip is None or usual > _SHORT * trip:
            return math.inf
        return began + usual - _EARLY * trip


@dataclass(slots=True)
class Patience:
    """Waiting for points that others will make: with a growing pause, up to a limit since the last one came.

    ``generation_s`` is waited while somebody else still evaluates, ``steering_s`` when all points have a loss: then
    the optimiser may be making new ones. Seconds on any monotonic clock.
    """

    generation_s: float
    steering_s: float
    pause_s: float
    since: float | None = None
    tries: int = 0
    all_evaluated: bool = False

    def came(self) -> None:
        """Points have come."""
        self.since, self.tries = None, 0

    def nothing(self, now: float) -> float:
        """No point has come; when to ask again."""
        if self.since is None:
            self.since = now
        self.tries += 1
        return now + min(self.pause_s, 0.25 * 2.0 ** min(self.tries, 20))

    def over(self, now: float) -> bool:
        """Whether it is time to leave."""
        limit = self.steering_s if self.all_evaluated else self.generation_s
        return self.since is not None and now - self.since >= limit


def advice(points: int, slots: int) -> str:
    """What a generation of so many points does to so many slots; "" where it fills them."""
    rounds = math.ceil(points / slots)
    share = round(100 * points / (rounds * slots)) if rounds else 100
    if slots < 2 or share >= 90:
        return ""
    return (
        f"a generation of {points} points uses {share} % of the time of {slots} slots: "
        f"a multiple of {slots} would use all of it"
    )


def pending(losses: Iterable[float | None]) -> int:
    """How many points of an overview wait for their loss."""
    return sum(loss is None for loss in losses)
