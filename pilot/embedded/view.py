"""The object that `pilot status --json` prints (DESIGN.md section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilot.embedded import documents
from pilot.embedded.database import Entry
from pilot.embedded.jobs import Record
from pilot.embedded.requestlog import iso


def status(record: Record, history: Sequence[Entry]) -> dict[str, Any]:
    """What became of a job so far; ``error`` tells what the server itself found."""
    report = _object(record.report)
    log = record.definition.get("logFile")
    outputs = [_file(name, entry) for name, entry in report.items() if name != log]
    log_entry = report.get(log) if isinstance(log, str) else None
    return {
        "id": record.id,
        "name": record.definition.get("jobName"),
        "queue": record.queue,
        "state": record.status,
        "attempt": record.attempt,
        "retry": record.retry or None,
        "exit_code": record.fields.get("trans_exit_code"),
        "pilot_error_code": record.fields.get("pilot_error_code", 0),
        "pilot_error_diag": _diag(record),
        "error": {"source": record.error_source, "code": record.error_code, "diag": record.error_diag},
        "outputs": outputs,
        "log": log_entry.get("surl") if isinstance(log_entry, dict) else None,
        "seconds": _seconds(record),
        "stdout": record.stdout,
        "history": [
            {"time": iso(entry.at), "call": entry.call, "state": entry.state, "answer": entry.answer}
            for entry in history
        ],
    }


def line(record: Record) -> dict[str, Any]:
    """A job in one line of a list."""
    return {
        "id": record.id,
        "name": record.definition.get("jobName"),
        "queue": record.queue,
        "state": record.status,
        "submitted": iso(record.submitted),
    }


def _diag(record: Record) -> str:
    """The pilot's own words, unless the server found more than the pilot."""
    told = str(record.fields.get("pilot_error_diag", ""))
    if record.error_diag and (record.final != "failed" or not told):
        return record.error_diag
    return told


def _object(text: str) -> dict[str, Any]:
    try:
        value = documents.loads(text)
    except (ValueError, documents.Unreadable):
        return {}
    return value if isinstance(value, dict) else {}


def _file(name: str, entry: Any) -> dict[str, Any]:
    told: dict[str, Any] = entry if isinstance(entry, dict) else {}
    size = str(told.get("fsize"))
    return {
        "name": name,
        "size": int(size) if size.isdecimal() else None,
        "adler32": told.get("adler32"),
        "url": told.get("surl"),
    }


def _seconds(record: Record) -> dict[str, float]:
    phases = {**_from_pilot_timing(record.fields.get("pilot_timing")), **_from_meta_data(record.meta_data)}
    return {
        "queue": max(0.0, record.acquired - record.submitted) if record.acquired else 0.0,
        **phases,
        "report": _report_s(record, phases),
    }


def _from_pilot_timing(text: object) -> dict[str, float]:
    """``getjob|stagein|payload|stageout|...``: what is no number counts as 0."""
    parts = [*str(text or "").split("|"), "", "", "", ""]
    return {"stage_in": _float(parts[1]), "payload": _float(parts[2]), "stage_out": _float(parts[3])}


def _from_meta_data(text: str) -> dict[str, float]:
    timing = _object(text).get("timing")
    told: Mapping[str, Any] = timing if isinstance(timing, dict) else {}
    return {name: _float(told[name]) for name in ("stage_in", "payload", "stage_out") if name in told}


def _float(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        return 0.0
    return number if 0 <= number < float("inf") else 0.0


def _report_s(record: Record, phases: Mapping[str, float]) -> float:
    """From the end of stage-out to the final update, as far as it can be told: 0 if it cannot."""
    if record.final_at is None or record.running is None:
        return 0.0
    return max(0.0, record.final_at - record.running - phases["payload"] - phases["stage_out"])
