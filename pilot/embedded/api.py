"""The PanDA v1 API: from an HTTP request to the live server's answer, word for word."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from pilot.embedded import jobs
from pilot.embedded.adder import Adder
from pilot.embedded.database import Change, Entry, JobTable, Wanted
from pilot.embedded.jobs import Record
from pilot.embedded.signatures import CALLS, Call, Crashed, Refused

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """What the API needs of an HTTP request; ``there`` tells whether the client still waits."""

    method: str
    path: str
    query: str
    content_type: str
    content_encoding: str
    accept: str
    body: bytes
    there: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer of the API; it always travels as text/plain."""

    status: int
    text: str


Envelope = dict[str, Any]


def _envelope(success: bool, message: str = "", data: object = None) -> Envelope:
    return {"success": success, "message": message, "data": data}


NO_JOBS = _envelope(success=False, message="No jobs in PanDA")


class Api:
    """Answers calls out of the job table."""

    def __init__(self, table: JobTable, adder: Adder) -> None:
        self._table = table
        self._adder = adder

    def answer(self, request: Request) -> Answer:
        """The answer to a request whose path begins with /api or /server."""
        call = _find(request.path)
        if call is None:
            return Answer(403, f"ERROR : method {request.path.rpartition('/')[2]} is forbidden")
        try:
            envelope = self._run(call, request)
        except json.JSONDecodeError as error:
            return Answer(500, f"ERROR : received invalid JSON : {error}")
        except (Crashed, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
            return Answer(500, str(error))
        as_json = _JSON in (request.content_type, request.accept)
        return Answer(200, json.dumps(envelope) if as_json else str(envelope))

    def _run(self, call: Call, request: Request) -> Envelope:
        sent = parameters(request)
        try:
            _authorise(call, request)
            arguments = call.check(request.method, sent)
        except Refused as refusal:
            return _envelope(success=False, message=str(refusal))
        handlers = {
            "acquire_jobs": self._acquire_jobs,
            "update_job": self._update_job,
            "get_job_status": self._get_job_status,
            "update_worker_status": _update_worker_status,
            "is_alive": _is_alive,
            "kill": self._kill,
            "set_command": self._set_command,
        }
        return handlers[call.name](arguments, request)

    def _acquire_jobs(self, asked: Mapping[str, Any], request: Request) -> Envelope:
        complaint = _bad_architecture(asked["target_architecture"])
        if complaint:
            return _envelope(success=False, message=complaint)
        if asked["timeout"] <= _OVERHEAD_S or asked["n_jobs"] <= 0 or len(asked["node"] or "") > _NODE_LIMIT:
            return NO_JOBS
        now = time.time()
        wanted = Wanted(
            asked["site_name"],
            min(asked["n_jobs"], _MOST_JOBS),
            _filter(asked["memory"]),
            _filter(asked["disk_space"]),
            _filter(asked["remaining_time"]),
        )
        records = self._table.acquire(wanted, lambda record: _hand_out(record, now), request.there)
        if not records:
            return NO_JOBS
        proxy = {"credname": "", "myproxy": ""} if asked["get_proxy_key"] else {}
        recent = self._table.sent(wanted.queue)
        given = [{"StatusCode": 0, **record.definition, "nSent": recent, **proxy} for record in records]
        return _envelope(success=True, data={"StatusCode": 0, "jobs": given})

    def _update_job(self, asked: Mapping[str, Any], _request: Request) -> Envelope:
        job_id, status = asked["job_id"], asked["job_status"]
        if status not in jobs.SENT_BY_PILOTS:
            return _envelope(success=False, message=f"Invalid job status: {status}", data={"StatusCode": 50})
        if isinstance(job_id, bool) or not -_BIGINT <= job_id < _BIGINT:
            # The type check lets a JSON true pass for a number, PostgreSQL does not.
            reply = jobs.DATABASE_ERROR
        else:
            reply = self._table.change(job_id, lambda record: _updated(record, asked))
        if status in jobs.FINAL:
            self._adder.wake()
        return _envelope(success=True, message=reply.message, data=reply.data)

    def _get_job_status(self, asked: Mapping[str, Any], _request: Request) -> Envelope:
        return _envelope(success=True, data=[self._status(job_id) for job_id in asked["job_ids"]])

    def _status(self, job_id: int) -> dict[str, Any]:
        record = self._table.load(job_id) if -_BIGINT <= job_id < _BIGINT else None
        if record is None:
            return {"job_id": job_id, "status": "not found", "attempt_number": 0}
        return {"job_id": job_id, "status": record.status, "attempt_number": record.attempt}

    def _kill(self, asked: Mapping[str, Any], _request: Request) -> Envelope:
        return _envelope(success=True, data=[self._kill_one(one, asked["code"]) for one in asked["job_ids"]])

    def _kill_one(self, job_id: object, code: int | None) -> bool:
        if not isinstance(job_id, int) or not -_BIGINT <= job_id < _BIGINT:
            return False
        return self._table.change(job_id, lambda record: _killed(record, code))

    def _set_command(self, asked: Mapping[str, Any], _request: Request) -> Envelope:
        job_id, text = asked["job_id"], asked["command"]
        if not -_BIGINT <= job_id < _BIGINT:
            return _envelope(success=False, message=f"no active job with PandaID={job_id}")

        def step(record: Record | None) -> Change[tuple[bool, str]]:
            after, success, message = jobs.command(record, job_id, text)
            return Change((success, message), after)

        success, message = self._table.change(job_id, step)
        return _envelope(success, message)


_OVERHEAD_S = 10
_NODE_LIMIT = 128
_MOST_JOBS = 10_000
_BIGINT = 2**63


def _find(path: str) -> Call | None:
    parts = path.split("/")
    if len(parts) != len(("", "api", "v1", "module", "name")) or parts[:3] != ["", "api", "v1"]:
        return None
    return CALLS.get((parts[3], parts[4]))


def _authorise(call: Call, request: Request) -> None:
    """Raise Refused for a caller who may not do this. Over plain HTTP on loopback everybody may.

    The one place where credentials will be looked at (panda-protocol.md 1.7).
    """


def parameters(request: Request) -> object:
    """What a request sends: a JSON value, a form's texts, or those of the query string."""
    if request.method == "GET":
        return _texts(request.query)
    if request.content_type == _JSON:
        return json.loads(plain_body(request).decode())
    if request.content_type.partition(";")[0].strip() == "application/x-www-form-urlencoded":
        return _texts(request.body.decode("utf-8", "replace"))
    return {}


def plain_body(request: Request) -> bytes:
    """The body without its compression; raises OSError, EOFError or zlib.error if it is not gzip."""
    return gzip.decompress(request.body) if request.content_encoding == "gzip" else request.body


def _texts(encoded: str) -> dict[str, Any]:
    """A query string as the server reads it: a repeated key is a list, a single one stays a text."""
    return {key: several[0] if len(several) == 1 else several for key, several in parse_qs(encoded, True).items()}


def _filter(value: object) -> int:
    """A limit as the query takes it: what is no number, or not above 0, is no filter."""
    usable = isinstance(value, int | float) and 0 < value < _BIGINT
    return int(value) if isinstance(value, int | float) and usable else 0


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


def _bad_architecture(value: object) -> str:
    """The complaint about a target_architecture, "" if it can be read."""
    try:
        if isinstance(value, str):
            json.loads(value)
    except ValueError as error:
        return f"failed to parse target_architecture with {error}"
    return ""


def _is_alive(_asked: Mapping[str, Any], _request: Request) -> Envelope:
    return _envelope(success=True)


def _update_worker_status(asked: Mapping[str, Any], _request: Request) -> Envelope:
    if asked["status"] not in ("started", "finished"):
        words = "Invalid worker state. The worker state has to be in ('started', 'finished')"
        return _envelope(success=False, message=words)
    if not str(asked["worker_id"]).isdigit():
        return _envelope(success=False, message="Failed to update worker status")
    return _envelope(success=True)
