"""What an evaluation's end means for its point, its slot and the job (hpo-contract.md 10.4)."""

from __future__ import annotations

from collections.abc import Callable

from pilot.runner.hpo.book import Book, Lease, Tally
from pilot.runner.hpo.crew import Evaluation
from pilot.runner.hpo.files import Folder
from pilot.runner.hpo.service import PointService
from pilot.runner.hpo.slots import Slot, Slots
from pilot.runner.hpo.supply import Supply
from pilot.runner.hpo.verdict import Kind, Verdict
from pilot.runner.pod import Pod
from pilot.values.events import events
from pilot.values.hpo import PENALTY, PointWork
from pilot.values.names import Lfn
from pilot.values.stop import Stop

log = events(__name__)

_BROKEN = 3  # so many failures in a row, and no success ever, mean that no evaluation can succeed here
_MOST_FREE_TRIES = 3  # retries of a point that are not its own fault


class Ends:
    """Decides. A loss is told; else the point is tried again here, or left to the server, or gets the penalty."""

    def __init__(
        self,
        asked: PointWork,
        slots: Slots,
        supply: Supply,
        service: PointService,
        book: Book,
        tally: Tally,
        pod: Pod,
        stop: Stop,
        metrics: Callable[[Folder, Lease], Lfn | None],
    ) -> None:
        """``metrics`` packs what an evaluation has left of them."""
        self.avoid: dict[str, set[int]] = {}
        self._asked = asked
        self._slots = slots
        self._supply = supply
        self._service = service
        self._book = book
        self._tally = tally
        self._settings = pod.settings
        self._stop = stop
        self._metrics = metrics
        self._attempts: dict[str, int] = {}
        self._forgiven: dict[str, int] = {}
        self._failures = 0

    def begun(self, lease: Lease) -> int:
        """One more evaluation of a point; its number, from 1."""
        self._attempts[lease.id] = self._attempts.get(lease.id, 0) + 1
        self._tally.tried.add(lease.id)
        return self._attempts[lease.id]

    def not_begun(self, lease: Lease) -> None:
        """It could not be started for now, which is nobody's fault."""
        self._attempts[lease.id] -= 1

    def of(self, lease: Lease, slot: Slot, found: Verdict, evaluation: Evaluation | None = None) -> None:
        """Act on a verdict."""
        if found.kind is Kind.MEASURED and found.loss is not None:
            self._measured(lease, slot, found.loss, found, evaluation)
            return
        self._book.ended(lease.id, found.why)
        if found.kind is Kind.STOPPED:
            return
        self._tally.first_failure = self._tally.first_failure or found.why
        self.avoid.setdefault(lease.id, set()).add(slot.number)
        if self._again(lease, found, forgiven=self._blame_slot(slot, found)):
            self._supply.again(lease)
            return
        self._give_up(lease, found)

    def closed(self, point: str, loss: float) -> None:
        """Its loss is told and its event is finished."""
        self._tally.closed[point] = loss

    def lost(self, point: str, why: str) -> None:
        """It was measured, and is not ours any more."""
        self._tally.left[point] = why

    def _measured(self, lease: Lease, slot: Slot, loss: float, found: Verdict, evaluation: Evaluation | None) -> None:
        self._failures = 0
        self._slots.succeeded(slot)
        self._book.measured(lease.id, loss)
        self._tally.measured[lease.id] = loss
        if found.pruned:
            self._tally.pruned.add(lease.id)
        self._tally.meta |= found.meta
        if evaluation is not None and (name := self._metrics(evaluation.folder, lease)) is not None:
            self._tally.metrics.append(name)
        self._service.close(lease, loss)

    def _blame_slot(self, slot: Slot, found: Verdict) -> bool:
        """Whether the slot, and not the point, is at fault; it may be set aside for that."""
        if found.kind is Kind.LOST:
            if not slot.aside:
                self._slots.set_aside(slot, found.why)
            return True
        if found.kind is Kind.MEMORY and self._slots.fewer(slot):
            return True
        if found.kind in (Kind.FAILED, Kind.MEMORY):
            self._slots.failed(slot, found.why)
            self._failures += 1
            if self._is_broken():
                self._supply.end(f"{self._failures} evaluations have failed, and none has succeeded: {found.why}")
        return bool(slot.aside)

    def _again(self, lease: Lease, found: Verdict, *, forgiven: bool) -> bool:
        """Whether the point is tried once more here."""
        if self._stop.reason is not None or not self._slots.usable or found.kind in (Kind.REFUSED, Kind.TIMEOUT):
            return False
        if forgiven:
            count = self._forgiven[lease.id] = self._forgiven.get(lease.id, 0) + 1
            return count <= _MOST_FREE_TRIES
        own = self._attempts[lease.id] - self._forgiven.get(lease.id, 0)
        return own <= self._settings.point_retries and not self._is_broken()

    def _give_up(self, lease: Lease, found: Verdict) -> None:
        """Leave it to the server, which gives it to somebody else; or let it have the penalty for good."""
        if found.fatal or self._settings.point_failure == "penalise":
            log.warning("a point gets the penalty", point=lease.id, why=found.why)
            self._book.measured(lease.id, PENALTY)
            self._tally.penalised.add(lease.id)
            self._service.close(lease, PENALTY)
            return
        log.warning("a point is given up here", point=lease.id, why=found.why)
        self._book.left(lease.id, found.why)
        self._tally.left[lease.id] = found.why

    def _is_broken(self) -> bool:
        return self._failures >= _BROKEN and not self._tally.measured
