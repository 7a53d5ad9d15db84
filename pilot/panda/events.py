"""The event ranges of PanDA's event service (panda-protocol.md 7, corrections A9-A13, B10)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pilot.net.transport import Limits
from pilot.panda.wire import Wire, succeeded
from pilot.values.errors import ServerGarbled, ServerRefused

_CALL = Limits(connect_s=15, idle_s=60, total_s=120, most_bytes=8 << 20)
_DIAG = 500

RangeStatus = Literal["finished", "failed", "fatal"]


@dataclass(frozen=True, slots=True)
class EventRange:
    """A range of events, or a hyper-parameter point: its id is only good under the job that acquired it."""

    id: str
    first: int
    last: int
    lfn: str | None = None
    guid: str | None = None
    scope: str | None = None

    @property
    def process_id(self) -> str:
        """``job_processID``, the fourth part of the id: of a hyper-parameter job, the point's id."""
        return self.id.split("-")[3]


@dataclass(frozen=True, slots=True)
class RangeUpdate:
    """What became of a range."""

    id: str
    status: RangeStatus
    error_code: int | None = None
    error_diag: str = ""


class EventClient:
    """The event calls of one server."""

    def __init__(self, wire: Wire) -> None:
        """Speak through ``wire``."""
        self._wire = wire

    def acquire(self, job_id: int, jobset_id: int, task_id: int | None, count: int) -> list[EventRange]:
        """At most ``count`` ranges, by first event; none: exhausted, or the job is over (all look the same)."""
        body = {"job_id": job_id, "jobset_id": jobset_id, "n_ranges": count}
        if task_id is not None:
            body["task_id"] = task_id
        data = succeeded("acquire_event_ranges", self._wire.post("/api/v1/event/acquire_event_ranges", body, _CALL))
        if not isinstance(data, list):
            raise ServerGarbled("acquire_event_ranges: success, but no list")
        return sorted((_range(one) for one in data), key=lambda one: one.first)

    def update_one(self, update: RangeUpdate) -> None:
        """Tell one range; no code or text of an error can go with it (7.4)."""
        body = {"event_range_id": update.id, "event_range_status": update.status}
        envelope = self._wire.post("/api/v1/event/update_single_event_range", body, _CALL)
        succeeded("update_single_event_range", {**envelope, "success": envelope.get("success") is not False})  # A12

    def update(self, job_id: int, task_id: int, updates: Sequence[RangeUpdate]) -> list[RangeUpdate]:
        """Tell many ranges in one call; those that are not stored afterwards.

        The answer proves nothing: 1.0.4 applies the update and fails with 500, or says true and stores
        nothing (A9, A10). So what counts is what `statuses` says after it.
        """
        body = {"event_ranges": json.dumps([_wire_form(one) for one in updates]), "version": 0}
        try:
            self._wire.post("/api/v1/event/update_event_ranges", body, _CALL)
        except ServerRefused as error:
            if "HTTP 500" not in str(error):
                raise
        stored = self.statuses(job_id, task_id)
        return [one for one in updates if stored.get(_key(one.id)) not in _SHOWN[one.status]]

    def statuses(self, job_id: int, task_id: int) -> Mapping[tuple[str, ...], str]:
        """The status word of each range that this job acquired, by the first four parts of its id (B10)."""
        asked = json.dumps([{"task_id": task_id, "panda_id": job_id}])
        envelope = self._wire.get("/api/v1/event/get_event_range_statuses", {"job_task_ids": asked}, _CALL)
        data = succeeded("get_event_range_statuses", envelope)
        entries = data.get(str(job_id)) if isinstance(data, dict) else None
        if not isinstance(entries, dict):
            return {}
        return {_key(name): str(entry.get("status")) for name, entry in entries.items() if isinstance(entry, dict)}


_SHOWN: Mapping[str, tuple[str, ...]] = {
    "finished": ("finished", "done", "merged"),
    "failed": ("failed",),
    "fatal": ("failed", "fatal"),
}


def _key(range_id: str) -> tuple[str, ...]:
    """What stays the same in an id: fatal rewrites the attempt at its end (A11)."""
    return tuple(range_id.split("-")[:4])


def _wire_form(update: RangeUpdate) -> dict[str, Any]:
    entry: dict[str, Any] = {"eventRangeID": update.id, "eventStatus": update.status}
    if update.error_code is not None:
        entry["errorCode"] = int(update.error_code)
    if update.error_diag:
        entry["errorDiag"] = update.error_diag.replace("\x00", "")[:_DIAG]
    return entry


def _range(raw: Any) -> EventRange:
    try:
        task, job, file, process, attempt = str(raw["eventRangeID"]).split("-")
        range_id = f"{int(task)}-{int(job)}-{int(file)}-{int(process)}-{int(attempt)}"
        return EventRange(
            range_id, int(raw["startEvent"]), int(raw["lastEvent"]), raw.get("LFN"), raw.get("GUID"), raw.get("scope")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerGarbled(f"acquire_event_ranges: not a range: {error}") from None
