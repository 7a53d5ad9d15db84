"""The point loop: main keeps every slot busy, waits for whatever comes first, and never for the network."""

from __future__ import annotations

import math
import select

from pilot.processes.starting import Shortage, is_scarce
from pilot.runner.hpo.book import Lease
from pilot.runner.hpo.crew import Crew, Evaluation
from pilot.runner.hpo.ends import Ends
from pilot.runner.hpo.messages import (
    Closed,
    Lost,
    Message,
    Overview,
    Prune,
    Ready,
    Refused,
    Saved,
    Taken,
    Useless,
)
from pilot.runner.hpo.service import PointService
from pilot.runner.hpo.slots import Slot, Slots
from pilot.runner.hpo.supply import Supply
from pilot.runner.hpo.verdict import Kind, Verdict
from pilot.runner.observing import Observer
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import GpuLost, PayloadNotStarted
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.stop import Reason, Stop

log = events(__name__)

_LANE_LINGER_S = 5.0  # evaluations that go on for longer get the memory of the lanes
_PROGRESS_S = 1.0  # between two looks at intermediate losses
_REAP_S = 1.0  # between two looks for orphans that have ended


class PointLoop:
    """One job's points, from the first to the last."""

    def __init__(
        self,
        asked: PointWork,
        slots: Slots,
        crew: Crew,
        supply: Supply,
        ends: Ends,
        service: PointService,
        pod: Pod,
        stop: Stop,
        limit: Deadline,
    ) -> None:
        """``limit``: when no evaluation may run any more."""
        self._asked = asked
        self._slots = slots
        self._crew = crew
        self._supply = supply
        self._ends = ends
        self._service = service
        self._pod = pod
        self._stop = stop
        self._limit = limit
        self._begun: set[str] = set()
        self._shortage = Shortage(pod.settings.patience)
        self._digests: dict[str, str] = {}
        self._progress_at = Deadline.after(_PROGRESS_S)
        self._reap_at = Deadline.after(_REAP_S)
        self._lanes_until = Deadline.after(_LANE_LINGER_S)

    def run(self, observer: Observer) -> None:
        """Until there is nothing more to do, or a stop; evaluations may still run then. Raises what ends the job."""
        while self._stop.reason is None and not self._limit.expired():
            self._place()
            self._supply.ask(self._crew.running.values())
            if not self._crew.running and self._supply.is_over():
                return
            self._wait(observer.due)
            self.listen()
            self._look(observer)
        if self._stop.reason is None:
            self._stop.request(Reason.DEADLINE if self._limit is self._pod.deadline else Reason.WALLTIME)

    def _place(self) -> None:
        """Start what has a slot; nothing while the system has no process to give."""
        if not self._shortage.due.expired():
            return
        for lease, slot in self._supply.placed(self._ends.avoid):
            self._start(lease, slot)
            if self._shortage.here:
                return

    def _start(self, lease: Lease, slot: Slot) -> None:
        attempt = self._ends.begun(lease)
        try:
            self._crew.start(lease, slot, attempt, self._limit)
        except PayloadNotStarted as error:
            # where others run, the end of one makes room
            if self._shortage.bears(error, self._limit) or (is_scarce(error) and self._crew.running):
                self._ends.not_begun(lease)
                self._supply.back(lease)
                return
            self._ends.of(lease, slot, Verdict(Kind.FAILED, why=str(error)))
        else:
            self._shortage.over()
        self._begun.add(lease.id)

    # --- waiting ------------------------------------------------------------------------------------

    def _wait(self, due: Deadline) -> None:
        """Until anything happens, or is due."""
        running = self._crew.running.values()
        for one in (self._limit, self._crew.due(), self._lanes_until, self._supply.next_question(running)):
            due = due.sooner(one)
        if self._shortage.here:
            due = due.sooner(self._shortage.due)
        if running:
            due = due.sooner(self._progress_at).sooner(self._reap_at)
        poll = select.poll()
        poll.register(self._service.mailbox, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        if not self._pod.drain.requested:
            poll.register(self._pod.drain, select.POLLIN)
        for descriptor in self._crew.descriptors():
            poll.register(descriptor, select.POLLIN)
        seconds = due.timeout()
        with self._pod.watchdog.waiting(due):
            poll.poll(None if seconds is None else math.ceil(1000 * seconds))

    # --- what came ----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Whatever the service has answered meanwhile."""
        while (message := self._service.mailbox.get(Deadline.after(0))) is not None:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        match message:
            case Taken():
                self._supply.took(message.count)
            case Ready():
                self._supply.came(message)
            case Useless():
                self._supply.useless(message)
            case Refused():
                self._supply.refused(message.error)
            case Overview():
                self._supply.seen(message)
            case Closed():
                self._hear_closed(message)
            case Lost():
                self._hear_lost(message)
            case Saved():
                self._hear_saved(message)
            case Prune():
                self._prune(message.point)

    def _hear_closed(self, message: Closed) -> None:
        if message.point not in self._begun:
            self._supply.known()
            log.info("the point was evaluated before", point=message.point, loss=message.loss)
        self._ends.closed(message.point, message.loss)
        if "tobekilled" in message.command:
            self._stop.request(Reason.TOBEKILLED)
        elif "softkill" in message.command:
            self._pod.drain.request()

    def _hear_lost(self, message: Lost) -> None:
        if message.point not in self._begun:
            self._supply.known()
        self._ends.lost(message.point, message.why)

    def _hear_saved(self, message: Saved) -> None:
        if message.digest is not None:
            self._digests[message.point] = message.digest
        for evaluation in self._crew.running.values():
            if evaluation.lease.id == message.point:
                evaluation.saving = False

    def _prune(self, point: str) -> None:
        for evaluation in self._crew.running.values():
            last = evaluation.progress.last
            if evaluation.lease.id == point and evaluation.ending is None and last is not None:
                log.info("pruned", point=point, step=last.step, loss=last.loss)
                self._crew.ask_to_end(evaluation, Verdict(Kind.MEASURED, last.loss, pruned=True))

    # --- what is due --------------------------------------------------------------------------------

    def _look(self, observer: Observer) -> None:
        for evaluation in tuple(self._crew.ended()):
            self.end(evaluation)
        for evaluation in tuple(self._crew.running.values()):
            self._look_at(evaluation)
        if self._progress_at.expired():
            self._progress_at = Deadline.after(_PROGRESS_S)
            for evaluation in self._crew.running.values():
                self._tell_progress(evaluation)
        if self._reap_at.expired():
            self._reap_at = Deadline.after(_REAP_S)
            self._crew.strays.reap()
        if self._lanes_until.expired():
            self._lanes_until = Deadline.never()
            self._pod.lanes.close()
        if observer.due.expired():
            self._observe(observer)

    def _look_at(self, evaluation: Evaluation) -> None:
        if evaluation.kill_at.expired():
            self._crew.kill(evaluation)
            self.end(evaluation)
        elif evaluation.ending is None and evaluation.timeout.expired():
            why = f"the evaluation took longer than {self._asked.timeout_s:g} s"
            self._crew.ask_to_end(evaluation, Verdict(Kind.TIMEOUT, why=why))
        elif evaluation.look_at.expired() and not evaluation.saving:
            self._crew.looked(evaluation)
            self._service.save(evaluation.lease, evaluation.folder.open_work, self.digest(evaluation), self._limit)

    def digest(self, evaluation: Evaluation) -> str:
        """Of the checkpoint that the server has of its point; "" for none."""
        return self._digests.get(evaluation.lease.id, "")

    def _observe(self, observer: Observer) -> None:
        """A lost GPU takes its slots, and not the job, as long as there is another."""
        try:
            observer.look()
        except GpuLost:
            gone = [slot for slot in self._slots.usable if slot.grant.gpus and slot.grant.gpus in observer.lost]
            if len(gone) == len(self._slots.usable):
                raise
            for slot in gone:
                self._slots.set_aside(slot, observer.lost)
                if (evaluation := self._crew.running.get(slot.number)) is not None:
                    self._crew.ask_to_end(evaluation, Verdict(Kind.LOST, why=observer.lost))

    def _tell_progress(self, evaluation: Evaluation) -> None:
        news = evaluation.progress.news()
        for one in news:
            log.info("intermediate", point=evaluation.lease.id, step=one.step, loss=one.loss)
        if news and self._asked.progress is not None:
            self._service.report(evaluation.lease.id, [{"step": one.step, "loss": one.loss} for one in news])

    def end(self, evaluation: Evaluation, *, killed: bool = False) -> Verdict:
        """Collect an evaluation, and act on its verdict; what nobody needs any more of it is deleted."""
        found = self._crew.collect(evaluation, killed=killed)
        self._tell_progress(evaluation)
        if found.kind is Kind.MEASURED and not found.pruned:
            self._supply.pace.seconds.append(evaluation.seconds)
        self._ends.of(evaluation.lease, evaluation.slot, found, evaluation)
        if not evaluation.saving and (found.kind is Kind.MEASURED or self._asked.checkpoints is None):
            evaluation.folder.clear()
        evaluation.folder.close()
        return found
