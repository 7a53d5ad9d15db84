"""Pod: what one pilot works with for all of its jobs, and how a stop divides its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pilot.net.credentials import Credentials
from pilot.panda.messages import Fault, Message
from pilot.panda.reporter import Reporter
from pilot.resources.given import NOTHING, Given
from pilot.resources.probe import Resources, probe
from pilot.resources.visible import Visible
from pilot.runner.area import JobArea
from pilot.runner.journal import Journal
from pilot.runner.watchdog import Watchdog
from pilot.staging.lanes.lanes import Lanes
from pilot.values.deadline import Clock, Deadline
from pilot.values.events import Redactor, events
from pilot.values.outcome import Phase
from pilot.values.settings import Settings
from pilot.values.site import Site
from pilot.values.stop import Drain, Part, Stop, Waitable, share

log = events(__name__)

_CLEAR_S = 3600.0
_NO_VARIABLES = Visible()


@dataclass(frozen=True, slots=True)
class Pod:
    """One pilot's means.

    ``work`` is the scratch directory (absolute), ``inherited`` the part of the environment that a payload may see.
    ``stop`` is what the outside asked for; ``hurry`` is its second time of asking.
    """

    settings: Settings
    site: Site
    work: Path
    journal: Journal
    watchdog: Watchdog
    credentials: Credentials
    reporter: Reporter
    lanes: Lanes
    clock: Clock
    redactor: Redactor
    stop: Stop
    hurry: Stop
    drain: Drain
    deadline: Deadline
    inherited: Mapping[str, str]
    visible: Visible = _NO_VARIABLES
    given: Given = NOTHING

    def probe(self) -> Resources:
        """What the pod has now: it can be resized in place, and a GPU can fall off."""
        return probe(self.work, given=self.given, visible=self.visible, wakers=(self.stop,))

    def share(self, part: Part, otherwise_s: float) -> Deadline:
        """Until when this part of a stop may last: its share of the grace period, or so long from now."""
        return share(part, self.settings.grace, self.stop, self.hurry) or Deadline.after(otherwise_s, self.clock)

    def clear(self, area: JobArea) -> None:
        """Delete a job's directory, as far as a stop leaves time for it."""
        limit = self.share("leave", _CLEAR_S)
        with self.watchdog.waiting(limit):
            area.remove(limit)

    def hear(self, limit: Deadline, *wakers: Waitable) -> Message | None:
        """The reporter's next message; None when the limit came, or one of ``wakers``, before it.

        Word of a fault in the reporter is no answer: it goes on, and so does the waiting.
        """
        with self.watchdog.waiting(limit):
            message = self.reporter.mailbox.get(limit, *wakers)
            while isinstance(message, Fault):
                log.warning("the reporter had a fault meanwhile", why=message.why)
                message = self.reporter.mailbox.get(limit, *wakers)
            return message


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
