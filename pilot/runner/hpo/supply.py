"""The supply of points: how many are asked for and when, which are at hand, and when no more will come."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Iterator

from pilot.runner.hpo.book import Lease, Tally
from pilot.runner.hpo.crew import Evaluation
from pilot.runner.hpo.messages import Overview, Ready, Useless
from pilot.runner.hpo.pacing import Pace, Patience, advice, pending
from pilot.runner.hpo.service import PointService
from pilot.runner.hpo.slots import Slot, Slots
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import ServerUnavailable
from pilot.values.events import events
from pilot.values.hpo import PointWork

log = events(__name__)


class Supply:
    """Points on their way to a slot. To be used by main."""

    def __init__(
        self, asked: PointWork, slots: Slots, service: PointService, pod: Pod, limit: Deadline, tally: Tally
    ) -> None:
        """``limit``: when no evaluation may run any more."""
        self.pace = Pace()
        self._asked = asked
        self._slots = slots
        self._service = service
        self._pod = pod
        self._limit = limit
        self._tally = tally
        settings = pod.settings
        self._patience = Patience(settings.linger, settings.steering_wait, settings.linger_poll)
        self._ready: deque[Lease] = deque()
        self._asking = 0
        self._opening = 0
        self._taken = 0
        self._ask_at = self._asked_at = 0.0
        self._advised = False
        self._no_more = ""

    @property
    def empty(self) -> bool:
        """Whether no point is at hand, or on its way."""
        return not (self._ready or self._asking or self._opening)

    def placed(self, avoid: dict[str, set[int]]) -> Iterator[tuple[Lease, Slot]]:
        """Each point at hand that has a slot now, which is busy before the next is looked for."""
        for _ in range(len(self._ready)):
            lease = self._ready.popleft()
            slot = self._slots.choose(avoid.get(lease.id, ()))
            if slot is None:
                self._ready.append(lease)
            else:
                yield lease, slot

    def ask(self, running: Collection[Evaluation]) -> None:
        """Ask for as many points as are missing, if any may be taken."""
        self._check_answer()
        if not self._may_take():
            return
        now = time.monotonic()
        soon = sum(self.pace.ahead_at(one.began) <= now for one in running if one.ending is None)
        missing = len(self._slots.free) + soon - len(self._ready) - self._opening
        if self._asked.most_points is not None:
            missing = min(missing, self._asked.most_points - self._taken)
        if missing > 0 and not self._asking and now >= self._ask_at:
            self._asking, self._asked_at = missing, now
            self._service.take(missing)

    def next_question(self, running: Collection[Evaluation]) -> Deadline:
        """When `ask` is to be called though nothing has happened."""
        if self._asking:
            return Deadline(self._asked_at + self._pod.settings.patience)
        if self._no_more:
            return Deadline.never()
        now = time.monotonic()
        soon = [self.pace.ahead_at(one.began) for one in running if one.ending is None]
        moments = [moment for moment in soon if moment > now]
        if len(self._slots.free) > len(self._ready) + self._opening:
            moments.append(self._ask_at)
        return Deadline(min(moments, default=math.inf))

    def is_over(self) -> bool:
        """Whether nothing will come any more. To be asked when nothing runs."""
        self._check_answer()
        if not self._no_more and self._patience.over(time.monotonic()):
            self.end("none came")
        return bool(self._no_more) and self.empty

    def _check_answer(self) -> None:
        """A question that has had no answer for too long is none any more, also while evaluations go on."""
        patience_s = self._pod.settings.patience
        if self._asking and time.monotonic() >= self._asked_at + patience_s:
            self.refused(ServerUnavailable(f"no answer within {patience_s:g} s"))

    def end(self, why: str) -> None:
        """Take no more."""
        if not self._no_more:
            self._no_more = why
            log.info("no more points are taken", why=why)

    # --- what came ----------------------------------------------------------------------------------

    def took(self, count: int) -> None:
        """An answer to the question."""
        wanted, self._asking = self._asking, 0
        self._opening += count
        self._taken += count
        if count:
            self._patience.came()
        if not count:
            self._ask_at = self._patience.nothing(time.monotonic())
            self._service.overview()
        elif count < wanted:
            self._ask_at = time.monotonic()

    def came(self, message: Ready) -> None:
        """A point is at hand."""
        self._opened()
        self.pace.round_trips.append(message.seconds)
        self._ready.append(message.lease)

    def useless(self, message: Useless) -> None:
        """An event without a point."""
        self._opened()
        self._tally.left[message.point] = message.why
        log.warning("a point is left to the server", point=message.point, why=message.why)

    def known(self) -> None:
        """An event whose point has its loss already, or was given to others meanwhile."""
        self._opened()

    def _opened(self) -> None:
        """One less on its way; after a refusal none is waited for."""
        self._opening = max(0, self._opening - 1)

    def refused(self, error: Exception) -> None:
        """None will come; what is there is brought to its end."""
        self._tally.refused = str(error)
        self._asking = self._opening = 0
        self.end(f"they are refused: {error}")

    def again(self, lease: Lease) -> None:
        """A point is to be tried once more, with its newest checkpoint where it has any."""
        if self._asked.checkpoints is None:
            self._ready.append(lease)
        else:
            self._opening += 1
            self._service.again(lease)

    def back(self, lease: Lease) -> None:
        """A point that could not be started just now: it comes first."""
        self._ready.appendleft(lease)

    def seen(self, message: Overview) -> None:
        """All points of the study."""
        losses = [point.loss for point in message.points]
        waiting = pending(losses)
        self._patience.all_evaluated = waiting == 0
        told = [(point.loss, point.id) for point in message.points if point.loss is not None]
        best = min((one for one in told if math.isfinite(one[0])), default=(None, None))
        log.info(
            "study",
            task=self._asked.task_id,
            known=len(losses),
            evaluated=len(losses) - waiting,
            best=best[1],
            loss=best[0],
        )
        if not self._advised and waiting:
            self._advised = True
            if text := advice(waiting, len(self._slots.usable)):
                log.info(text)

    def _may_take(self) -> bool:
        if self._no_more:
            return False
        most = self._asked.most_points
        if self._pod.drain.requested:
            self.end("draining")
        elif not self._slots.usable:
            self.end("every slot is set aside")
        elif most is not None and self._taken >= most:
            self.end(f"{self._taken} points, as many as one job may take")
        elif self._asked.checkpoints is None and not self.pace.can_end(self._limit.left()):
            self.end(f"{self._limit.left():.0f} s are left, and points take {self.pace.longest_s:.0f}")
        return not self._no_more
