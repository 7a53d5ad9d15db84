"""Pod: what one pilot works with for all of its jobs, and how a stop divides its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pilot.panda.reporter import Reporter
from pilot.staging.lanes import Lanes
from pilot.values.deadline import Budget, Clock, Deadline
from pilot.values.events import Redactor
from pilot.values.outcome import Phase
from pilot.values.settings import Settings
from pilot.values.site import Site
from pilot.values.stop import Drain, Stop


@dataclass(frozen=True, slots=True)
class Pod:
    """One pilot's means.

    ``work`` is the scratch directory (absolute), ``inherited`` the part of the environment that a payload may see.
    """

    settings: Settings
    site: Site
    work: Path
    reporter: Reporter
    lanes: Lanes
    clock: Clock
    redactor: Redactor
    stop: Stop
    drain: Drain
    deadline: Deadline
    inherited: Mapping[str, str]

    def share(self, part: Literal["payload", "save", "report"], otherwise_s: float) -> Deadline:
        """Until when this part of a stop may last: its share of the grace period, or so long from now."""
        asked_at = self.stop.asked_at
        if asked_at is None:
            return Deadline.after(otherwise_s)
        budget = Budget.of(self.settings.grace)
        shares = {"payload": budget.payload_s, "save": budget.save_s, "report": budget.report_s}
        return Deadline(asked_at + shares[part])


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Seconds spent in each phase."""

    clock: Clock
    seconds: dict[Phase, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the block's time, also when it raises."""
        began = self.clock.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock.monotonic() - began
