"""The event ranges of PanDA's event service (panda-protocol.md 7, corrections A9-A13, B10)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pilot.net.transport import Limits
from pilot.panda.generations import Generations
from pilot.panda.wire import Wire, decode, succeeded
from pilot.values.decoding import decode_json
from pilot.values.errors import Garbled, ServerGarbled, ServerRefused, ServerUnavailable
from pilot.values.printable import line
from pilot.values.redaction import Redactor

_CALL = Limits(connect_s=15, idle_s=60, total_s=120, most_bytes=8 << 20)
_DIAG = 500
_V1 = "/api/v1/event"
_OPEN = ("sent", "running")

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
        self._server = Generations()

    def acquire(
        self, job_id: int, jobset_id: int, task_id: int | None, count: int, segment: int | None = None
    ) -> list[EventRange]:
        """At most ``count`` ranges, by first event; none: exhausted, or the job is over (all look the same).

        ``segment`` is the dataset of a segmented hyper-parameter task. A server without the v1 call gets the older one.
        """
        body = {"job_id": job_id, "jobset_id": jobset_id, "n_ranges": count}
        if task_id is not None:
            body["task_id"] = task_id
        if segment is not None:
            body["segment_id"] = segment
        data = self._server.call(
            lambda: succeeded("acquire_event_ranges", self._wire.post(f"{_V1}/acquire_event_ranges", body, _CALL)),
            lambda: _as_json(self._old("getEventRanges", _old_names(body)).get("eventRanges")),
        )
        if not isinstance(data, list):
            raise ServerGarbled("acquire_event_ranges: success, but no list", maybe_done=True)
        return sorted((_range(one) for one in data), key=lambda one: one.first)

    def finish(self, range_id: str) -> str:
        """Tell that a range is finished; the server's command for the job, "" for none.

        Never anything else of a hyper-parameter point: a failed event ends its point for good (hpo-contract.md 0.1).
        Raises ServerRefused where the range is not the job's any more.
        """
        try:
            return _command(self._server.call(lambda: self._finish(range_id), lambda: self._old_finish(range_id)))
        except ServerUnavailable as error:
            if "database error" not in str(error):
                raise
            return self._in_doubt(range_id, error)

    def held(self, job_id: int, task_id: int) -> list[EventRange]:
        """What a job has and has not told the end of: it finds what a lost answer has given."""
        return [
            _range({"eventRangeID": name, "startEvent": (point := "".join(name.split("-")[3:4])), "lastEvent": point})
            for name, status in self._names(job_id, task_id).items()
            if status in _OPEN
        ]

    def _finish(self, range_id: str) -> Any:
        body = {"event_range_id": range_id, "event_range_status": "finished"}
        return _unless_refused(self._wire.post(f"{_V1}/update_single_event_range", body, _CALL))

    def _old_finish(self, range_id: str) -> Any:
        told = json.dumps([{"eventRangeID": range_id, "eventStatus": "finished"}])
        answer = self._old("updateEventRanges", {"eventRanges": told, "version": 1})
        if _as_json(answer.get("Returns")) == [False]:
            raise ServerRefused(f"updateEventRanges: {range_id} is not stored")
        return answer.get("Command")

    def _in_doubt(self, range_id: str, error: ServerUnavailable) -> str:
        """The server says "database error" of a range that is not ours as well (A12): the table of ranges decides."""
        task, job = (int(part) for part in range_id.split("-")[:2])
        status = self.statuses(job, task).get(_key(range_id), "not this job's")
        if status in _SHOWN["finished"]:
            return ""
        if status in _OPEN:
            raise error
        raise ServerRefused(f"{error}; {range_id} is {status}")

    def _old(self, call: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A call of the API before v1. Raises ServerUnavailable for its StatusCode 10 and 30, which pass."""
        answer = decode(self._wire.form(f"/server/panda/{call}", fields, _CALL))
        code = answer.get("StatusCode")
        if code == 0:
            return answer
        text = f"{call}: StatusCode {code}: {str(answer.get('errorDialog') or answer.get('ErrorDiag') or '')[:200]}"
        raise ServerUnavailable(text) if code in (10, 30) else ServerRefused(text)

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
        body = {"event_ranges": json.dumps([_wire_form(one, self._wire.redactor) for one in updates]), "version": 0}
        try:
            self._wire.post("/api/v1/event/update_event_ranges", body, _CALL)
        except ServerRefused as error:
            if "HTTP 500" not in str(error):
                raise
        stored = self.statuses(job_id, task_id)
        return [one for one in updates if stored.get(_key(one.id)) not in _SHOWN[one.status]]

    def statuses(self, job_id: int, task_id: int) -> Mapping[tuple[str, ...], str]:
        """The status word of each range that this job acquired, by the first four parts of its id (B10)."""
        return {_key(name): status for name, status in self._names(job_id, task_id).items()}

    def _names(self, job_id: int, task_id: int) -> dict[str, str]:
        """The same by the whole id; both names of the job go along, as the server's code reads another one (B3)."""
        asked = json.dumps([{"task_id": task_id, "panda_id": job_id, "job_id": job_id}])
        data = self._server.call(
            lambda: succeeded(
                "get_event_range_statuses",
                self._wire.get(f"{_V1}/get_event_range_statuses", {"job_task_ids": asked}, _CALL),
            ),
            lambda: decode(self._wire.form("/server/panda/get_events_status", {"ids": asked}, _CALL)),
        )
        entries = data.get(str(job_id)) if isinstance(data, dict) else None
        if not isinstance(entries, dict):
            return {}
        return {name: str(entry.get("status")) for name, entry in entries.items() if isinstance(entry, dict)}


_SHOWN: Mapping[str, tuple[str, ...]] = {
    "finished": ("finished", "done", "merged"),
    "failed": ("failed",),
    "fatal": ("failed", "fatal"),
}


def _old_names(body: Mapping[str, Any]) -> dict[str, Any]:
    names = {"job_id": "pandaID", "jobset_id": "jobsetID", "task_id": "taskID", "n_ranges": "nRanges"}
    return {names.get(name, name): value for name, value in body.items()}


def _unless_refused(envelope: Mapping[str, Any]) -> Any:
    """The command of an update; ``success`` is null for what was skipped (A12)."""
    data = succeeded("update_single_event_range", {**envelope, "success": envelope.get("success") is not False})
    return data.get("Command") if isinstance(data, dict) else None


def _command(value: Any) -> str:
    """The one command in ``{"<job>": "<command>"}``, which may come as text."""
    commands = _as_json(value)
    found = commands.values() if isinstance(commands, dict) else ()
    return next((str(one) for one in found if one not in (None, "", "NULL")), "")


def _as_json(value: Any) -> Any:
    """What may have been packed as text once more; None for a text that is no JSON."""
    try:
        return decode_json(value) if isinstance(value, str) else value
    except Garbled:
        return None


def _key(range_id: str) -> tuple[str, ...]:
    """What stays the same in an id: fatal rewrites the attempt at its end (A11)."""
    return tuple(range_id.split("-")[:4])


def _wire_form(update: RangeUpdate, redactor: Redactor) -> dict[str, Any]:
    entry: dict[str, Any] = {"eventRangeID": update.id, "eventStatus": update.status}
    if update.error_code is not None:
        entry["errorCode"] = int(update.error_code)
    if update.error_diag:
        entry["errorDiag"] = line(redactor.clean(update.error_diag))[:_DIAG]
    return entry


def _range(raw: Any) -> EventRange:
    try:
        task, job, file, process, attempt = str(raw["eventRangeID"]).split("-")
        range_id = f"{int(task)}-{int(job)}-{int(file)}-{int(process)}-{int(attempt)}"
        return EventRange(
            range_id, int(raw["startEvent"]), int(raw["lastEvent"]), raw.get("LFN"), raw.get("GUID"), raw.get("scope")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerGarbled(f"acquire_event_ranges: not a range: {error}", maybe_done=True) from None
