"""The crew: the evaluations that run, one in each busy slot."""

from __future__ import annotations

import hashlib
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pilot.payload.environment import payload_environment
from pilot.payload.orphans import Strays
from pilot.payload.process import PayloadProcess
from pilot.payload.proven import proof_before
from pilot.payload.sidecar import SidecarEvaluation
from pilot.processes.starting import is_scarce
from pilot.runner.area import POINTS, JobArea
from pilot.runner.hpo import files, verdict
from pilot.runner.hpo.book import Book, Lease
from pilot.runner.hpo.files import Folder, Supplies
from pilot.runner.hpo.progress import FILE, Progress
from pilot.runner.hpo.slots import Slot
from pilot.runner.hpo.verdict import Kind, Verdict
from pilot.runner.lending import Lent
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import PayloadNotStarted
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.job import Job
from pilot.values.outcome import PayloadEnd

log = events(__name__)

_LEFTOVERS_S = 0.1  # for what an evaluation leaves behind: more would be the time of the other slots
_SOFT_S = 10.0  # between the soft signal and KILL, where one evaluation is to end and no grace period is running out
_COLLECT_S = 5.0
_SIDECAR_SEES = ("HPO_", "PILOT_", "PANDAID", "PandaID", "PanDA_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_")
_WITH_OWN_FOLDER = "PATH=$PATH:.\n"  # as the wrapper's script has it (hpo-contract.md 4.3)


@dataclass(slots=True, eq=False)
class Evaluation:
    """One attempt of a point. ``ending`` says why we are ending it, None while it runs by itself."""

    lease: Lease
    slot: Slot
    attempt: int
    folder: Folder
    process: PayloadProcess | SidecarEvaluation
    guard: AbstractContextManager[None] | None
    began: float
    timeout: Deadline
    progress: Progress
    look_at: Deadline
    ending: Verdict | None = None
    kill_at: Deadline = field(default_factory=Deadline.never)
    saving: bool = False
    digest: str = ""

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began


class Crew:
    """Starts evaluations and ends them. To be used by main."""

    def __init__(
        self, job: Job, asked: PointWork, lent: Lent, given: Supplies, book: Book, pod: Pod, area: JobArea
    ) -> None:
        self._job = job
        self._asked = asked
        self._lent = lent
        self._given = given
        self._book = book
        self._pod = pod
        self._area = area
        self._pattern = re.compile(pod.settings.progress_pattern) if pod.settings.progress_pattern else None
        self._others: Callable[[], set[int]] = set
        self.strays = Strays(lambda: self._ours(None))
        self.running: dict[int, Evaluation] = {}
        self.ended_s = 0.0
        self.max_rss_kib = 0

    def spare(self, others: Callable[[], set[int]]) -> None:
        """Children of ours that are no evaluations."""
        self._others = others

    def start(self, lease: Lease, slot: Slot, attempt: int, limit: Deadline) -> Evaluation:
        """Begin an evaluation. Raises PayloadNotStarted, JournalBroken."""
        root = self._area.root / "points" / f"{lease.id}.{attempt}"
        folder = self._folder(root, lease, slot)
        timeout = Deadline.after(self._asked.timeout_s) if self._asked.timeout_s else Deadline.never()
        until = timeout.sooner(limit)
        files.prepare(folder, lease, self._asked, self._given, self._context(lease, slot, attempt, until))
        try:
            process, guard = self._process(lease, slot, attempt, folder)
        except PayloadNotStarted as error:
            folder.close()
            if is_scarce(error):  # it may be tried again, under the same number
                self._forget(folder)
            raise
        printed = process.stdout if isinstance(process, SidecarEvaluation) else folder.stdout
        evaluation = Evaluation(
            lease, slot, attempt, folder, process, guard, time.monotonic(), timeout,
            Progress(folder.work, printed, self._pattern), self._next_look(),
        )  # fmt: skip
        self.running[slot.number] = evaluation
        slot.busy = True
        log.info("evaluation started", point=lease.id, slot=slot.number, device=slot.device, attempt=attempt)
        return evaluation

    def _folder(self, root: Path, lease: Lease, slot: Slot) -> Folder:
        """Raises PayloadNotStarted."""
        top = slot.sidecar.root if slot.sidecar else self._area.root.parent
        work = (slot.sidecar.root if slot.sidecar else root) / "workDir"
        try:
            return Folder(root, work, top, *self._area.printed(root.name))
        except OSError as error:
            raise PayloadNotStarted(f"no files for the output of point {lease.id}: {error.strerror}") from error

    def _forget(self, folder: Folder) -> None:
        """Remove the directories of an attempt that never was."""
        limit = Deadline.after(_COLLECT_S)
        for parent, name in ((self._area.root_folder, "points"), (self._area.own, POINTS)):
            with suppress(OSError), parent.below(name) as points:
                points.remove(folder.root.name, limit)

    def ended(self) -> Iterator[Evaluation]:
        """Those that have ended."""
        for evaluation in tuple(self.running.values()):
            if evaluation.process.ended():
                yield evaluation

    def descriptors(self) -> list[PayloadProcess]:
        """What becomes readable when one of them ends; of those in sidecars nothing does."""
        return [one.process for one in self.running.values() if isinstance(one.process, PayloadProcess)]

    def due(self) -> Deadline:
        """When one of them is to be looked at, though nothing tells."""
        due = Deadline.never()
        for one in self.running.values():
            due = due.sooner(one.kill_at)
            due = due.sooner(one.timeout) if one.ending is None else due
            due = due.sooner(one.look_at) if not one.saving else due
            if isinstance(one.process, SidecarEvaluation):
                due = due.sooner(Deadline.after(one.process.due()))
        return due

    def ask_to_end(self, evaluation: Evaluation, why: Verdict) -> None:
        """Tell it to stop; it is killed if it does not."""
        evaluation.ending = why
        evaluation.kill_at = Deadline.after(_SOFT_S)
        evaluation.folder.ask_to_stop()
        evaluation.process.tell(signal.Signals[self._pod.settings.soft_signal])

    def kill(self, evaluation: Evaluation) -> None:
        """End it now."""
        evaluation.kill_at = Deadline.never()
        evaluation.process.kill(Deadline.after(_COLLECT_S))

    def collect(self, evaluation: Evaluation, *, killed: bool = False) -> Verdict:
        """The verdict on one that has ended: its slot is free from then on."""
        limit = Deadline.after(_COLLECT_S)
        with self._pod.watchdog.waiting(limit):
            end = evaluation.process.collect(limit)
        if evaluation.guard is not None:
            evaluation.guard.__exit__(None, None, None)
        del self.running[evaluation.slot.number]
        evaluation.slot.busy = False
        self.ended_s += end.cpu_s
        self.max_rss_kib = max(self.max_rss_kib, end.max_rss_kib)
        if isinstance(evaluation.process, SidecarEvaluation):
            evaluation.process.fetch(evaluation.folder.stdout, evaluation.folder.stderr)
        found = self._verdict(evaluation, end, killed=killed)
        log.info(
            "evaluation ended",
            point=evaluation.lease.id,
            slot=evaluation.slot.number,
            verdict=found.kind,
            loss=found.loss,
            exit_code=end.exit_code,
            seconds=round(evaluation.seconds, 3),
            why=found.why or None,
        )
        return found

    def living(self) -> list[int]:
        """The pids of all of them."""
        return [pid for one in self.running.values() for pid in one.process.living()]

    def buried_s(self) -> float:
        """CPU seconds of what has ended."""
        return self.ended_s + self.strays.usage.cpu_s + sum(one.process.buried_s() for one in self.running.values())

    def _ours(self, slot: int | None) -> set[int]:
        """Our children that this slot's evaluation must not touch: those of the other slots, the pilot's helpers."""
        others = (one.process for number, one in self.running.items() if number != slot)
        return {process.pid for process in others if isinstance(process, PayloadProcess)} | self._others()

    def _verdict(self, evaluation: Evaluation, end: PayloadEnd, *, killed: bool) -> Verdict:
        """What it has answered; else why we have ended it."""
        if getattr(evaluation.process, "lost", False):
            return Verdict(Kind.LOST, why=f"the sidecar {evaluation.slot.device} is gone")
        found = verdict.judge(evaluation.folder.open_work, self._asked, end, evaluation.folder.stderr)
        if found.kind is Kind.MEASURED:
            return found
        if evaluation.ending is not None:
            return evaluation.ending
        return Verdict(Kind.STOPPED, why="the pilot was told to stop") if killed else found

    def _process(
        self, lease: Lease, slot: Slot, attempt: int, folder: Folder
    ) -> tuple[PayloadProcess | SidecarEvaluation, AbstractContextManager[None] | None]:
        environment = self._environment(lease, slot, attempt, folder)
        text = _WITH_OWN_FOLDER + self._asked.command
        mark = uuid.uuid4().hex
        self._book.starting(lease.id, proof_before(mark), folder.work)
        if slot.sidecar is not None:
            seen = {name: value for name, value in environment.items() if name.startswith(_SIDECAR_SEES)}
            return SidecarEvaluation(slot.sidecar, text, folder.work, seen), None
        process = PayloadProcess(
            text, folder.work, environment, folder.stdout, folder.stderr,
            mark=mark, ours=lambda: self._ours(slot.number), alone=False, leftovers_s=_LEFTOVERS_S,
        )  # fmt: skip
        self._book.started(lease.id, process.proof)
        guard = self._pod.watchdog.guards(process.proof)
        guard.__enter__()
        return process, guard

    def _environment(self, lease: Lease, slot: Slot, attempt: int, folder: Folder) -> dict[str, str]:
        """Of any payload, and the wrapper's and our own names of hyper-parameter work (hpo-contract.md 10.6)."""
        own = payload_environment(
            self._job, folder.work, folder.scratch, self._pod.inherited, self._pod.site.queue.environ,
            self._lent.credentials, slot.grant,
        )  # fmt: skip
        if slot.sidecar is not None:
            own.pop("CUDA_VISIBLE_DEVICES")
        return own | {
            "HPO_SAMPLE_ID": lease.id,
            "HPO_TASK_ID": str(self._asked.task_id),
            "HPO_SLOT": str(slot.number),
            "HPO_ATTEMPT": str(attempt),
            "HPO_SEED": str(seed(self._asked.task_id, lease.id)),
            "HPO_PROGRESS_FILE": FILE,
            "PandaID": str(self._job.id),
            "PanDA_TaskID": str(self._asked.task_id),
            "PILOT_EXEC_ITERATION_COUNT": str(lease.number),
        }

    def _context(self, lease: Lease, slot: Slot, attempt: int, until: Deadline) -> Mapping[str, Any]:
        left_s = until.timeout()
        end = None if left_s is None else datetime.now(UTC) + timedelta(seconds=left_s)
        return {
            "task_id": str(self._asked.task_id),
            "sample_id": lease.id,
            "segment": self._asked.segment,
            "attempt": attempt,
            "slot": slot.number,
            "device": slot.device,
            "seed": seed(self._asked.task_id, lease.id),
            "deadline": end.strftime("%Y-%m-%dT%H:%M:%SZ") if end else None,
            "progress_file": FILE,
            "stop_file": files.STOP,
        }

    def _next_look(self) -> Deadline:
        checkpoints = self._asked.checkpoints
        return Deadline.after(checkpoints.interval_s) if checkpoints else Deadline.never()

    def looked(self, evaluation: Evaluation) -> None:
        """Its checkpoint is being looked at; the next time is an interval later."""
        evaluation.saving = True
        evaluation.look_at = self._next_look()


def seed(task: int, point: str) -> int:
    """The same for each attempt of a point: four bytes of SHA-256 of ``task:point`` (hpo-contract.md 10.6)."""
    return int.from_bytes(hashlib.sha256(f"{task}:{point}".encode()).digest()[:4], "big")
