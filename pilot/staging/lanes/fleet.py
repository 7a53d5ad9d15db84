"""Fleet: the transfer processes that run now, and which of them takes an order."""

from __future__ import annotations

from pilot.processes.starting import Shortage, is_scarce
from pilot.staging.lanes.attempt import Attempt
from pilot.staging.lanes.lane import Lane, LaneSettings

_SMALL_BYTES = 1 << 20
_SHORTAGE_S = 60.0
"""How long the system may have no process for us where nobody has said how patient we are, in seconds."""

_AHEAD = 16
"""So many orders for small files are sent ahead: their lane shall not wait for us between two of them."""


class Fleet:
    """Lanes come with the work and go with it. Used by one thread, which lives on."""

    def __init__(self, settings: LaneSettings) -> None:
        patience_s = settings.patience_s
        self._settings = settings
        self.shortage = Shortage(_SHORTAGE_S if patience_s is None else patience_s)
        self.lanes: list[Lane] = []

    @property
    def pids(self) -> set[int]:
        """All processes that are ours to collect."""
        return {lane.pid for lane in self.lanes}

    def lane_for(self, attempt: Attempt) -> Lane | None:
        """A lane of the right identity that has room for this order; None if it must wait.

        OSError: there is no process for it, and there will be none. `shortage` tells when to come again where the
        system has none now.
        """
        self._bury()
        ours = [lane for lane in self.lanes if lane.key == attempt.key and not lane.tired]
        lane = min((lane for lane in ours if _has_room(lane, attempt)), key=lambda one: len(one.orders), default=None)
        if lane is not None:
            return lane
        if len(self.lanes) >= self._settings.lanes:
            idle = next((lane for lane in self.lanes if not lane.orders and lane not in ours), None)
            if idle is None:
                return None
            self.end(idle)
        return self._started(attempt)

    def start(self, attempt: Attempt) -> Lane:
        """A new lane for orders like this one. OSError if the system has no process to give."""
        lane = Lane(self._settings, attempt.key, attempt.login)
        self.shortage.over()
        self.lanes.append(lane)
        return lane

    def _started(self, attempt: Attempt) -> Lane | None:
        if not self.shortage.due.expired():
            return None
        try:
            return self.start(attempt)
        except OSError as error:
            # where another process of ours is at work, the end of its orders makes room for these
            if self.shortage.bears(error, attempt.limit) or (is_scarce(error) and self.lanes):
                return None
            raise

    def end(self, lane: Lane) -> int:
        """Let a lane end by itself, if it will; its exit status."""
        self.lanes.remove(lane)
        return lane.end()

    def kill(self, lane: Lane) -> None:
        """End a lane now."""
        self.lanes.remove(lane)
        lane.kill()

    def close(self) -> None:
        """End all that have nothing to do, and then the others."""
        for lane in list(self.lanes):
            self.end(lane)

    def _bury(self) -> None:
        for lane in [lane for lane in self.lanes if not lane.orders and (lane.tired or lane.gone())]:
            self.end(lane)


def _has_room(lane: Lane, attempt: Attempt) -> bool:
    """One order at a time; of small files several."""
    return not lane.orders or (len(lane.orders) < _AHEAD and all(map(_small, (attempt, *lane.orders))))


def _small(attempt: Attempt) -> bool:
    size = attempt.step.transfer.size
    return size is not None and size <= _SMALL_BYTES and attempt.step.hop.third_party is None
