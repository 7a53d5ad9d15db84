"""What becomes of a job after its final update: the Adder's verdict, and the limits of silence."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pilot.embedded import documents
from pilot.embedded.database import Change, Entry, JobTable
from pilot.embedded.events import EventTable, Tally
from pilot.embedded.jobs import Record, worth_a_retry

_NO_REPORT = "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"
_DDM = 200
_GRACE_S = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The final state, and the error that the Adder itself found (code 0: none)."""

    state: str
    code: int = 0
    diag: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a job may stay silent, in seconds (panda-protocol.md 5.8)."""

    sent_s: float = 1800.0
    heartbeat_s: float = 7200.0
    holding_s: float = 10800.0

    @classmethod
    def lease(cls, seconds: float) -> Limits:
        """The same short time for all that a pilot has; what is being checked keeps its own."""
        return cls(min(cls().sent_s, seconds), seconds)

    def of(self, status: str) -> tuple[float, int, str] | None:
        """The limit in a state, with the jobDispatcherErrorCode and its text; None where there is none."""
        return {
            "sent": (self.sent_s, 102, "Sent job didn't receive reply from pilot within the limit"),
            "starting": (self.heartbeat_s, 100, "lost heartbeat"),
            "running": (self.heartbeat_s, 100, "lost heartbeat"),
            "transferring": (self.heartbeat_s, 104, "transferring timeout"),
            "holding": (self.holding_s, 103, "holding timeout"),
        }.get(status)


def judge(record: Record, tally: Tally | None = None) -> Verdict:
    """The verdict on a job whose final update is in (panda-protocol.md 5.5 with A18, B1).

    ``tally`` is that of an event service job, whose report need not be complete (A4, B7).
    """
    if record.killed and record.final == "failed":
        return Verdict("cancelled")
    if tally is not None:
        unmerged = tally.left_over if record.final == "finished" else tally.finished
        return Verdict("merging" if unmerged else record.final)
    outputs = _names(record.definition, "outFiles")
    if not outputs:
        return Verdict(record.final)
    explained = any(record.fields.get(key) for key in ("pilot_error_code", "trans_exit_code", "exe_error_code"))
    report = _read(record.report, _names(record.definition, "inFiles"))
    if report is None:
        return Verdict("failed") if explained else Verdict("failed", _DDM, _NO_REPORT)
    if record.final == "failed":
        return Verdict("failed")
    if record.definition.get("isHPO") == "True":
        report = {_declared(name, outputs) for name in report}
    complaint = _complaint(record.definition, outputs, report)
    return Verdict("failed", _DDM, complaint) if complaint else Verdict("finished")


def _names(definition: Mapping[str, Any], key: str) -> list[str]:
    text = definition.get(key)
    return [name for name in text.split(",") if name] if isinstance(text, str) and text != "NULL" else []


def _read(text: str, inputs: list[str]) -> set[str] | None:
    """The names in a report; None if it cannot be read, or lacks what each entry must have."""
    try:
        report = documents.loads(text)
    except (ValueError, documents.Unreadable):
        return None
    if not isinstance(report, dict) or not report:
        return None
    if not all(_complete(entry, is_input=name in inputs) for name, entry in report.items()):
        return None
    return set(report) - set(inputs)


def _declared(name: str, outputs: list[str]) -> str:
    """The output that a file with digits behind its name stands for (hpo-contract.md 4.1); else the name itself."""
    stem, _, digits = name.rpartition("_")
    return stem if stem in outputs and digits.isdecimal() else name


def _complete(entry: object, *, is_input: bool) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("guid"), str):
        return False
    if is_input:
        return True
    sized = re.fullmatch(r"\d+", str(entry.get("fsize"))) is not None
    md5 = re.fullmatch(r"[0-9a-fA-F]{32}", str(entry.get("md5sum"))) is not None
    return sized and (md5 or bool(entry.get("adler32")))


def _complaint(definition: Mapping[str, Any], outputs: list[str], report: set[str]) -> str:
    optional = _names(definition, "allowNoOutput")
    missing = [name for name in outputs if name not in report and name not in optional]
    if missing:
        return f"expected output {missing[0]} is missing in pilot JSON"
    extra = sorted(report - set(outputs))
    return f"pilot produced {extra[0]} inconsistently with jobdef" if extra else ""


class Adder:
    """The thread that gives verdicts, ``delay_s`` after the final update, and ends silent jobs."""

    def __init__(self, table: JobTable, events: EventTable, delay_s: float, limits: Limits) -> None:
        self._table = table
        self._events = events
        self._delay_s = delay_s
        self._limits = limits
        self._wake = threading.Event()
        self._ended = False
        self._began = time.time()
        self._thread = threading.Thread(target=self._run, name="adder", daemon=True)

    def start(self) -> None:
        """Start the thread; jobs that an earlier life left in holding are taken up."""
        self._thread.start()

    def wake(self) -> None:
        """A job's state changed: look again."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        patrol_s = min(60.0, self._limits.sent_s / 4, self._limits.heartbeat_s / 4, self._limits.holding_s / 4)
        patrol = time.time() + patrol_s
        while not self._ended:
            self._wake.clear()
            now = time.time()
            if now >= patrol:
                self._turn(now, "sent", "starting", "running", "transferring")
                patrol = now + patrol_s
            due = self._turn(now, "holding")
            self._wake.wait(max(0.001, min(due, patrol) - time.time()))

    def _turn(self, now: float, *statuses: str) -> float:
        """Deal with every job in these states that is due, and return when the next one will be."""
        times = [(self._due(record), record.id) for record in self._table.all(*statuses)]
        for due, job_id in times:
            if due <= now:
                self._table.change(job_id, lambda record: self._step(record, now))
        return min((due for due, _ in times if due > now), default=float("inf"))

    def judge_now(self, job_id: int) -> None:
        """Give the verdict on a job in holding at once; for tests that cannot wait."""
        self._table.change(job_id, lambda record: self._step(record, float("inf")) if _final(record) else Change(None))

    def _due(self, record: Record) -> float:
        if record.status == "holding" and record.final and record.final_at is not None:
            return record.final_at + self._delay_s
        limit = self._limits.of(record.status)
        since = max(record.acquired or 0.0, record.heard or 0.0) or record.submitted
        # while we were away nobody could be heard
        return max(since + limit[0], self._began + min(_GRACE_S, limit[0])) if limit else float("inf")

    def _step(self, record: Record | None, now: float) -> Change[None]:
        """Look at the job again inside the transaction: a heartbeat may have come meanwhile."""
        if record is None or not record.active or self._due(record) > now:
            return Change(None)
        now = min(now, time.time())
        if record.final:
            verdict = judge(record, self._events.tally(record) if record.is_event_service else None)
            return _ended(record, "adder", "ddm" if verdict.code else "", verdict, now)
        _, code, diag = self._limits.of(record.status) or (0.0, 0, "")
        return _ended(record, "watcher", "jobDispatcher", Verdict("failed", code, diag), now)


def _final(record: Record | None) -> bool:
    return record is not None and bool(record.final)


def _ended(record: Record, call: str, source: str, verdict: Verdict, now: float) -> Change[None]:
    ended = replace(record, status=verdict.state, error_source=source, error_code=verdict.code, error_diag=verdict.diag)
    entry = Entry(now, call, verdict.state, verdict.diag or None)
    return Change(None, ended, entry, again=worth_a_retry(ended))
