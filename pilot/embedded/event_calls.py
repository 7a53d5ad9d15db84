"""The five calls about event ranges, and the two ways of update_event_ranges: as meant, and as 1.0.4 does it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilot.embedded import documents
from pilot.embedded.events import EventTable, RangeId, Told, pool
from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.hpo.studies import Studies
from pilot.embedded.jobs import Record
from pilot.embedded.signatures import Crashed
from pilot.embedded.wire import DATABASE_ERROR, Envelope, envelope

_MOST = 100_000
_DIALOG_LIMIT = 500
_SKIPPED = ("running", "transferring")
_STORED = ("finished", "failed", "fatal")
_TAKING = ("sent", "starting", "running")
_REFUSED = envelope(success=False, message=DATABASE_ERROR)


@dataclass(slots=True)
class _Batch:
    """What one call tells, range by range; ``spoiled`` means that the database will undo all of it (A9)."""

    version: int
    returns: list[bool | None] = field(default_factory=list)
    commands: dict[str, str | None] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    spoiled: bool = False


class EventCalls:
    """Answers out of the table of ranges; ``jobs`` finds a job by its id, ``studies`` makes points."""

    def __init__(
        self,
        events: EventTable,
        jobs: Callable[[int], Record | None],
        studies: Studies,
        *,
        broken: bool,
    ) -> None:
        self._events = events
        self._studies = studies
        self._jobs = jobs
        self._broken = broken

    def handlers(self) -> dict[str, Handler]:
        """The calls by their names."""
        return {
            "event/acquire_event_ranges": self._acquire,
            "event/update_event_ranges": self._update,
            "event/update_single_event_range": self._update_one,
            "event/get_available_event_range_count": self._count,
            "event/get_event_range_statuses": self._statuses,
        }

    def _acquire(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        record = self._jobs(asked["job_id"])
        if record is None or record.status not in _TAKING or record.killed:
            return envelope(success=True, data=[])
        jobset, task = pool(record.definition)
        if asked["jobset_id"] != jobset or asked["task_id"] not in (None, task):
            return envelope(success=True, data=[])
        count = max(0, asked["n_ranges"])
        if record.definition.get("isHPO") == "True":
            return envelope(success=True, data=self._studies.hand_out(record, task, count, asked["segment_id"]))
        return envelope(success=True, data=self._events.acquire(record, jobset, task, count))

    def _count(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        pair = (asked["jobset_id"], asked["task_id"])
        return envelope(success=True, data=self._events.count(*pair) if all(map(_is_number, pair)) else 0)

    def _statuses(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        try:
            pairs = [(one["task_id"], one["panda_id"]) for one in documents.loads(asked["job_task_ids"])]
        except (ValueError, TypeError, KeyError):
            return _REFUSED
        if not all(_is_number(number) for pair in pairs for number in pair):
            return _REFUSED
        found = {str(job): self._events.statuses(task, job) for task, job in pairs}
        return envelope(success=True, data={job: ranges for job, ranges in found.items() if ranges})

    def _update_one(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        report = {"eventRangeID": asked["event_range_id"], "eventStatus": asked["event_range_status"]}
        batch = self._worked_through([(report, None)], 0)
        if batch.returns == [False]:
            return _REFUSED
        # None, not True, for what is skipped: so does the live server (A12).
        return envelope(batch.returns[0], data={"Command": json.dumps(batch.commands)})

    def _update(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        version = asked["version"]
        try:
            reports = list(_reports(asked["event_ranges"], version))
        except ValueError:
            return self._unreadable(version, visit)
        batch = self._worked_through(reports, version)
        if self._broken:
            return _as_1_0_4(batch, visit)
        returns, commands = batch.returns, batch.commands
        as_text = version == 0
        data = {
            "Returns": json.dumps(returns) if as_text else returns,
            "Commands": json.dumps(commands) if as_text else commands,
        }
        return envelope(success=True, data=data)

    def _unreadable(self, version: int, visit: Visit) -> Envelope:
        if not self._broken:
            return _REFUSED
        # The live server takes the error's text for the pair of answers, and so its first two letters.
        return _as_set({"Returns", "Commands", *('"E' if version == 0 else "ER")}, visit)

    def _worked_through(self, reports: list[tuple[Any, Any]], version: int) -> _Batch:
        batch = _Batch(version)
        for number, (report, zipped) in enumerate(reports):
            batch.returns.append(None if number >= _MOST else self._one(report, zipped, batch))
        if not batch.spoiled:
            self._events.store(batch.told, ready_too=version == _FINE_GRAINED)
        return batch

    def _one(self, report: Any, zipped: Any, batch: _Batch) -> bool | None:
        """What a range's report returns; what is to be stored of it goes to the batch."""
        told: Mapping[str, Any] = report if isinstance(report, dict) else {}
        range_id, status = RangeId.parse(told.get("eventRangeID")), told.get("eventStatus")
        if status in _SKIPPED:
            return None
        if range_id is None or status not in _STORED:
            return False
        record = self._jobs(range_id.job)
        active = record is not None and record.active
        batch.commands[str(range_id.job)] = (record.command or None) if record and active else "tobekilled"
        if not active or not _may_tell(record, batch.version) or not _is_zip(zipped):
            return False
        batch.spoiled |= not _storable(told)
        batch.told.append(Told(range_id, str(status), told.get("errorCode"), told.get("errorDiag"), zipped))
        return True


_FINE_GRAINED = 2


def _reports(text: str, version: int) -> Iterator[tuple[Any, Any]]:
    """Each range's report with the zip file it is in; ValueError if the text is no list."""
    items = documents.loads(text)
    if not isinstance(items, list):
        raise ValueError("not a list")  # noqa: TRY004 - one kind of error for bad input
    for item in items:
        several = item.get("eventRanges") if version and isinstance(item, dict) else None
        if isinstance(several, list):
            yield from ((one, item.get("zipFile")) for one in several)
        else:
            yield item, None


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BIGINT


_BIGINT = 2**63


def _may_tell(record: Record | None, version: int) -> bool:
    statuses = (*_TAKING, "transferring", *(("activated",) if version == _FINE_GRAINED else ()))
    return record is not None and record.status in statuses


def _is_zip(zipped: Any) -> bool:
    return zipped is None or (isinstance(zipped, dict) and "objstoreID" in zipped and _is_text(zipped.get("lfn")))


def _storable(told: Mapping[str, Any]) -> bool:
    code, dialog = told.get("errorCode"), told.get("errorDiag")
    whole = code is None or re.fullmatch(r"-?[0-9]{1,18}", str(code)) is not None
    return whole and (dialog is None or (_is_text(dialog) and len(dialog) <= _DIALOG_LIMIT))


def _is_text(value: object) -> bool:
    """Whether a value is a text that a database takes: no NUL in it, no half of a character."""
    return isinstance(value, str) and re.search("[\0\ud800-\udfff]", value) is None


def _as_1_0_4(batch: _Batch, visit: Visit) -> Envelope:
    if batch.version:
        raise Crashed("unhashable type: 'list'")
    extra = [False] if any(one.status == "finished" for one in batch.told) else []
    return _as_set({"Returns", "Commands", json.dumps([*batch.returns, *extra]), json.dumps(batch.commands)}, visit)


def _as_set(values: set[str], visit: Visit) -> Envelope:
    """A set where an object was meant: it can be shown, but not be made JSON."""
    if visit.request.wants_json:
        raise Crashed(f"Type not serializable for {values} (<class 'set'>)")
    return envelope(success=True, data=values)
