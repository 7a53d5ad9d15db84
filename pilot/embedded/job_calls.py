"""The calls about jobs: acquire, update, look, kill, command."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pilot.embedded import documents, jobs, selection
from pilot.embedded.adder import Adder
from pilot.embedded.calls import CALLS
from pilot.embedded.database import Change, Entry, JobTable
from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.hpo.jobs import addressed
from pilot.embedded.jobs import Record
from pilot.embedded.selection import Wanted
from pilot.embedded.signatures import Crashed, Refused
from pilot.embedded.wire import NO_JOBS, Envelope, envelope

_OVERHEAD_S = 10
_NODE_LIMIT = 128
_MOST_JOBS = 10_000
_BIGINT = 2**63
_FOREIGN = "no production/pilot role in VOMS FQANs or non pilot owner"


class JobCalls:
    """Answers out of the job table; ``testing`` tells whether a queue is in status test.

    ``any_gpus`` tells whether some node has GPUs. As long as none is known, a job that wants one goes to whoever
    asks, and is refused there with the figures: better than to wait for ever. ``generate`` makes the jobs of studies,
    for a queue, by our URL.
    """

    def __init__(
        self,
        table: JobTable,
        adder: Adder,
        testing: Callable[[str], bool],
        any_gpus: Callable[[], bool],
        generate: Callable[[str, str], None],
    ) -> None:
        self._generate = generate
        self._any_gpus = any_gpus
        self._table = table
        self._adder = adder
        self._testing = testing

    def handlers(self) -> dict[str, Handler]:
        """The calls by their names."""
        return {
            "pilot/acquire_jobs": self._acquire_jobs,
            "pilot/update_job": self._update_job,
            "pilot/update_jobs_bulk": self._update_jobs_bulk,
            "pilot/get_job_status": self._get_job_status,
            "job/get_status": self._get_status,
            "job/kill": self._kill,
            "job/set_command": self._set_command,
            "job/set_debug_mode": self._set_debug_mode,
        }

    def _acquire_jobs(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        complaint = _bad_architecture(asked["target_architecture"])
        if complaint:
            return envelope(success=False, message=complaint)
        if not visit.caller.production and asked["prod_source_label"] != "user":
            return envelope(success=False, message=_FOREIGN)
        if asked["timeout"] <= _OVERHEAD_S or asked["n_jobs"] <= 0 or len(asked["node"] or "") > _NODE_LIMIT:
            return NO_JOBS
        now = time.time()
        wanted = self._wanted(asked, visit)
        self._generate(wanted.queue, visit.request.base)
        records = self._table.acquire(wanted, lambda record: _hand_out(record, now), visit.request.there)
        if not records:
            return NO_JOBS
        proxy = {"credname": "", "myproxy": ""} if asked["get_proxy_key"] and visit.caller.production else {}
        recent = self._table.sent(wanted.queue)
        told = [addressed(_definition(record), visit.request.base) for record in records]
        given = [{"StatusCode": 0, **one, "nSent": recent, **proxy} for one in told]
        return envelope(success=True, data={"StatusCode": 0, "jobs": given})

    def _wanted(self, asked: Mapping[str, Any], visit: Visit) -> Wanted:
        label, queue = asked["prod_source_label"], asked["site_name"]
        return Wanted(
            queue,
            min(asked["n_jobs"], _MOST_JOBS),
            _filter(asked["memory"]),
            _filter(asked["disk_space"]),
            _filter(asked["remaining_time"]),
            selection.labels(label, asked["computing_element"], testing=self._testing(queue)),
            asked["resource_type"] or None,
            asked["task_id"],
            (asked["prod_user_id"] or None) if visit.caller.production else visit.caller.dn,
            _gpus(asked["target_architecture"]) if self._any_gpus() else None,
        )

    def _update_job(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        job_id, status = asked["job_id"], asked["job_status"]
        if status not in jobs.SENT_BY_PILOTS:
            return envelope(success=False, message=f"Invalid job status: {status}", data={"StatusCode": 50})
        if isinstance(job_id, bool) or not _is_id(job_id):
            # The type check lets a JSON true pass for a number, PostgreSQL does not.
            reply = jobs.DATABASE_ERROR
        else:
            reply = self._table.change(job_id, lambda record: _updated(record, asked))
        if status in jobs.FINAL:
            self._adder.wake()
        return envelope(success=True, message=reply.message, data=reply.data)

    def _update_jobs_bulk(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        """Not one transaction: what was updated before an item that breaks the call stays updated (A17)."""
        try:
            return envelope(success=True, data=[self._update_of_many(one, visit) for one in asked["job_list"]])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return envelope(success=False, message=f"failed with {type(error).__name__} {error}", data=[])

    def _update_of_many(self, one: Any, visit: Visit) -> Envelope:
        sent = dict(one)
        for needed in ("job_id", "job_status"):
            sent[needed]
        if "meta_data" in sent:
            sent["meta_data"] = str(sent["meta_data"])
        try:
            return self._update_job(CALLS["pilot", "update_job"].check("POST", sent), visit)
        except Refused as refusal:
            return envelope(success=False, message=str(refusal))
        except Crashed as crash:
            raise AttributeError(str(crash)) from None

    def _get_job_status(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        return envelope(success=True, data=[self._status(job_id) for job_id in asked["job_ids"]])

    def _status(self, job_id: int) -> dict[str, Any]:
        record = self.find(job_id)
        if record is None:
            return {"job_id": job_id, "status": "not found", "attempt_number": 0}
        return {"job_id": job_id, "status": record.status, "attempt_number": record.attempt}

    def _get_status(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        """Status and command, without the ids (A8)."""
        found = [self.find(job_id) for job_id in asked["job_ids"]]
        unknown = {"status": "unknown", "command": "tobekilled"}
        known = [one and {"status": one.status, "command": one.command or None} for one in found]
        return envelope(success=True, data=[one or unknown for one in known])

    def find(self, job_id: int) -> Record | None:
        """A job, None if there is none of this id."""
        return self._table.load(job_id) if _is_id(job_id) else None

    def _kill(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        return envelope(success=True, data=[self._kill_one(one, asked["code"]) for one in asked["job_ids"]])

    def _kill_one(self, job_id: object, code: int | None) -> bool:
        return _is_id(job_id) and self._table.change(int(str(job_id)), lambda record: _killed(record, code))

    def _set_command(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        job_id, text = asked["job_id"], asked["command"]
        if not _is_id(job_id):
            return envelope(success=False, message=f"no active job with PandaID={job_id}")

        def step(record: Record | None) -> Change[tuple[bool, str]]:
            after, success, message = jobs.command(record, job_id, text)
            return Change((success, message), after)

        success, message = self._table.change(job_id, step)
        return envelope(success, message)

    def _set_debug_mode(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        """Success is told as failure, and failure as success: so does the live server."""
        job_id = asked["job_id"]

        def step(record: Record | None) -> Change[str]:
            after, message = jobs.set_debug(record, job_id, asked["mode"])
            return Change(message, after)

        message = self._table.change(job_id, step) if _is_id(job_id) else jobs.set_debug(None, job_id, mode=True)[1]
        return envelope(message != jobs.DEBUG_SET, message)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_BIGINT <= value < _BIGINT


def _filter(value: object) -> int:
    """A filter of acquire_jobs as a number; what is no positive number filters nothing."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**62 else 0


def _definition(record: Record) -> dict[str, Any]:
    debug = {"debug": "True", "pilotSecrets": "{}"} if record.debug else {}
    return {**record.definition, **debug}


def _hand_out(record: Record, now: float) -> Change[None]:
    return Change(None, replace(record, status="sent", acquired=now), Entry(now, "acquire_jobs", "sent"))


def _updated(record: Record | None, asked: Mapping[str, Any]) -> Change[jobs.Reply]:
    now = time.time()
    after, reply = jobs.update(record, asked, now)
    said = reply.command or reply.message or reply.diag
    return Change(reply, after, Entry(now, "update_job", asked["job_status"], said) if record else None)


def _killed(record: Record | None, code: int | None) -> Change[bool]:
    after = jobs.kill(record, code)
    return Change(after is not None, after, Entry(time.time(), "kill", after.status) if after else None)


def _gpus(architecture: object) -> int:
    """How many GPUs a pilot has told of."""
    told = documents.loads(architecture) if isinstance(architecture, str) else architecture
    models = told.get("gpus") if isinstance(told, dict) else None
    counts = [one.get("count") for one in models if isinstance(one, dict)] if isinstance(models, list) else []
    return sum(count for count in counts if isinstance(count, int))


def _bad_architecture(value: object) -> str:
    """The complaint about a target_architecture, "" if it can be read."""
    try:
        if isinstance(value, str):
            documents.loads(value)
    except ValueError as error:
        return f"failed to parse target_architecture with {error}"
    return ""
