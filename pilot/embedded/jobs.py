"""The rules by which the server moves a job: pure functions from a record to the next one.

They are the table of panda-protocol.md 5.3 as corrected by panda-live-corrections.md A1-A6, B1-B5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

FINAL = frozenset({"finished", "failed", "cancelled", "merging"})
"""States that no update changes; merging is that of an event service job of which ranges are left over (B7)."""
SENT_BY_PILOTS = ("running", "failed", "finished", "holding", "starting", "transferring")
_ENDS = frozenset({"finished", "failed"})
_FORCED = frozenset({9, 52})


@dataclass(frozen=True, slots=True)
class Record:
    """One job as the database has it. Times are seconds of the wall clock; None is "not yet".

    ``status`` is the database's, ``final`` what the pilot said in its final update ("" before).
    """

    id: int
    queue: str
    status: str
    attempt: int
    definition: Mapping[str, Any]
    submitted: float
    acquired: float | None = None
    heard: float | None = None
    running: float | None = None
    command: str = ""
    killed: bool = False
    batch_id: str = ""
    final: str = ""
    final_at: float | None = None
    report: str = ""
    meta_data: str = ""
    stdout: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    error_source: str = ""
    error_code: int = 0
    error_diag: str = ""
    debug: bool = False
    max_attempt: int = 0
    retry: int = 0

    @property
    def active(self) -> bool:
        """Whether the job is still in the table that updates look at (A3)."""
        return self.status not in FINAL

    @property
    def is_event_service(self) -> bool:
        """Whether the job takes its events range by range."""
        return self.definition.get("eventService") == "True"

    @property
    def reply(self) -> Reply:
        """The answer to an accepted update."""
        command = ",".join(one for one in ("debug" if self.debug else "", self.command) if one)
        return Reply(command or "NULL", secrets="{}" if self.debug else None)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one update: ``command`` and ``secrets`` are None where the server sends none."""

    command: str | None = "NULL"
    status_code: int = 0
    message: str = ""
    diag: str = ""
    secrets: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The ``data`` of the answer."""
        parts = {
            "StatusCode": self.status_code,
            "ErrorDiag": self.diag or None,
            "pilotSecrets": self.secrets,
            "command": self.command,
        }
        return {key: value for key, value in parts.items() if value is not None}


TO_BE_KILLED = Reply("tobekilled")
ALREADY_DONE = Reply("alreadydone")
DATABASE_ERROR = Reply(None, 30, "Database error")
NO_META_DATA = Reply(None, 30, diag="Failed to add meta_data")


def update(record: Record | None, sent: Mapping[str, Any], now: float) -> tuple[Record | None, Reply]:
    """The record after one update, None if nothing changes, and the answer."""
    if record is None and sent.get("meta_data") and sent["job_status"] != "failed":
        return None, NO_META_DATA
    if record is None or not record.active or _wrong_attempt(record, sent):
        return None, TO_BE_KILLED
    return _accepted(record, sent, now)


def _accepted(record: Record, sent: Mapping[str, Any], now: float) -> tuple[Record | None, Reply]:
    """The same for an update that is about this attempt of an active job."""
    if _batch_clash(record, sent):
        return None, DATABASE_ERROR
    if record.final and sent["job_status"] in _ENDS:
        return None, ALREADY_DONE
    status = _next_status(record, sent["job_status"])
    if status is None:
        return None, record.reply
    if _unstorable(sent):
        return None, DATABASE_ERROR
    return _stored(record, status, sent, now), record.reply


def kill(record: Record | None, code: int | None) -> Record | None:
    """The record after a kill; None if there is nothing to kill.

    A running job only gets the command and waits for its pilot; any other, and one of the event service,
    is gone at once (C11).
    """
    if record is None or not record.active or record.killed:
        return None
    if record.status == "running" and code not in _FORCED and not record.is_event_service:
        return replace(record, command="tobekilled", killed=True)
    return replace(
        record, status="cancelled", killed=True, error_source="taskBuffer", error_code=100, error_diag="killed"
    )


def command(record: Record | None, job_id: int, text: str) -> tuple[Record | None, bool, str]:
    """The record with a command for its pilot, success, and the message of ``set_command`` (B2)."""
    if len(text) > _COMMAND_LIMIT:
        return None, False, "command string too long. must be less than 250 chars"
    if record is None or not record.active:
        return None, False, f"no active job with PandaID={job_id}"
    if record.killed:
        return None, False, "job is being killed"
    return replace(record, command="" if text == "NULL" else text), True, "command received"


_COMMAND_LIMIT = 250
_DEBUGGABLE = ["defined", "activated", "running", "sent", "starting", "assigned"]


def set_debug(record: Record | None, job_id: int, mode: bool) -> tuple[Record | None, str]:
    """The record with debug mode on or off, None if it cannot be, and the message (B4)."""
    if record is None or not record.active:
        return None, f"PandaID={job_id} not found in active DB"
    if record.status not in _DEBUGGABLE:
        return (
            None,
            f"Cannot set debugMode since the job status is {record.status} which is not in one of {_DEBUGGABLE}",
        )
    return replace(record, debug=mode), DEBUG_SET


DEBUG_SET = "Succeeded"
_PERMANENT = frozenset({1144, 1149, 1311})


def worth_a_retry(record: Record) -> bool:
    """Whether a job that ended badly gets another attempt: not if the next one could only end the same way."""
    if record.status not in ("failed", "merging") or record.killed or record.max_attempt <= record.attempt:
        return False
    return record.fields.get("pilot_error_code") not in _PERMANENT


def _wrong_attempt(record: Record, sent: Mapping[str, Any]) -> bool:
    attempt = sent.get("attempt_nr")
    return attempt is not None and attempt != record.attempt


def _batch_clash(record: Record, sent: Mapping[str, Any]) -> bool:
    """Whether the server trips over another batch id (A1: for ever, and with a database error)."""
    told = str(sent.get("batch_id") or "")[:80]
    if not told or not record.batch_id or told == record.batch_id:
        return False
    return not told.isdigit() and not record.batch_id.isdigit()


def _next_status(record: Record, sent: str) -> str | None:
    """The status after an update, None if the update is ignored."""
    if sent in _ENDS:
        return "holding"
    if record.status == "holding":
        return None
    if record.status == "transferring" and sent in ("running", "starting"):
        return None
    if record.status == "running" and sent == "starting":
        return "running"
    return sent


def _stored(record: Record, status: str, sent: Mapping[str, Any], now: float) -> Record:
    ends = sent["job_status"] in _ENDS
    meta_data = "" if sent["job_status"] == "failed" else str(sent.get("meta_data") or "")
    stdout = sent.get("stdout") or ""
    return replace(
        record,
        status=status,
        heard=now,
        running=record.running or (now if status == "running" else None),
        batch_id=str(sent.get("batch_id") or "")[:80] or record.batch_id,
        final=sent["job_status"] if ends else "",
        final_at=now if ends else None,
        report=str(sent.get("job_output_report") or "") if ends else "",
        meta_data=record.meta_data or meta_data,
        stdout=stdout if stdout and len(stdout) <= _STDOUT_LIMIT and "\0" not in stdout else record.stdout,
        fields={**record.fields, **_kept(sent)},
    )


_STDOUT_LIMIT = 2048
_ELSEWHERE = frozenset(
    {
        *("job_id", "job_status", "attempt_nr", "timeout", "site_name"),
        *("job_output_report", "meta_data", "pilot_log", "stdout"),
    }
)
_CUT = {
    "pilot_error_diag": 500,
    "exe_error_diag": 500,
    "job_metrics": 500,
    "batch_id": 80,
    "pilot_id": 200,
    "node": 128,
    "job_sub_status": 80,
    "cpu_architecture_level": 20,
    "grid": 50,
    "source_site": 36,
    "destination_site": 36,
}
_TOO_LONG = {"pilot_timing": 100, "cpu_consumption_unit": 128, "scheduler_id": 128}
_BIGINT = 2**63
_TOTAL_LIMIT = 10**10 - 1


def _unstorable(sent: Mapping[str, Any]) -> bool:
    """Whether the database refuses one of the values, and so the whole update."""
    return any(
        _refused(name, value) for name, value in sent.items() if name not in _ELSEWHERE or name == "job_output_report"
    )


def _refused(name: str, value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value or _lone_surrogate(value) or len(value) > _TOO_LONG.get(name, len(value))
    if isinstance(value, bool):
        return True
    if isinstance(value, int) and not name.startswith("tot_"):
        return not -_BIGINT <= value < _BIGINT
    return False


def _lone_surrogate(text: str) -> bool:
    return re.search("[\ud800-\udfff]", text) is not None


def _kept(sent: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of the fields, cut and scaled as the server does it; empty and null ones are not."""
    kept = {name: _shaped(name, value) for name, value in sent.items() if name not in _ELSEWHERE}
    return {name: value for name, value in kept.items() if value not in (None, "")}


def _shaped(name: str, value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    shape = _SHAPES.get(name) or _SHAPES.get(name.partition("_")[0])
    if shape is not None and value is not None:
        return shape(value)
    return value[: _CUT[name]] if isinstance(value, str) and name in _CUT else value


def _time(value: Any) -> str | None:
    """A time in the server's format, None for any other: such a field is dropped."""
    try:
        datetime.strptime(value, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the server knows no time zones
    except ValueError:
        return None
    return str(value)


def _total(value: Any) -> int:
    return min(int(value / 1024), _TOTAL_LIMIT)


_SHAPES: dict[str, Callable[[Any], object]] = {
    "start_time": _time,
    "end_time": _time,
    "tot": _total,
    "rate": _total,
    "max": int,
    "avg": int,
}
