"""The calls of PanDA's v1 API that a pilot makes, each with its time limits, and the decision on its answer.

HTTP 200 means nothing and ``success: true`` means little (panda-protocol.md 17.1): every answer becomes a
value or one of the ServerErrors, whose class says whether to try again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilot.net.transport import Answer, Limits, Transport
from pilot.panda.decode import decode_job, parse_json
from pilot.panda.fields import clean
from pilot.values.errors import (
    BadJob,
    CredentialError,
    ServerGarbled,
    ServerRefused,
    ServerUnavailable,
)
from pilot.values.job import Job

_ACQUIRE = Limits(connect_s=15, idle_s=70, total_s=90, most_bytes=8 << 20)  # the server itself looks for 50 s
_UPDATE = Limits(connect_s=15, idle_s=60, total_s=120)
_QUERY = Limits(connect_s=15, idle_s=30, total_s=60)
_DOCUMENT = Limits(connect_s=15, idle_s=30, total_s=60, most_bytes=64 << 20)  # ddmendpoints.json of ATLAS: 6 MB

_OK, _TIMEOUT, _FAILED, _INVALID = 0, 10, 30, 50
_NO_CREDENTIAL = ("SSL secure connection is required", "production or pilot role", "no production/pilot role")
_PERMANENT_500 = (
    "types.UnionType",
    "isinstance() arg 2",
    "argument after ** must be a mapping",
    "received invalid JSON",
    "Not a gzipped file",
    "codec can't decode",
)  # corrections A19: these come from the request itself and never heal


@dataclass(frozen=True, slots=True)
class Question:
    """What acquire_jobs is asked. Memory and disk in MB, the time left in seconds; None: not said."""

    site_name: str
    label: str
    node: str
    computing_element: str
    memory_mb: int | None = None
    disk_mb: int | None = None
    remaining_s: int | None = None
    scheduler_id: str | None = None
    harvester_id: str | None = None
    worker_id: int | None = None

    def body(self) -> dict[str, Any]:
        """The JSON object, without what is None (the server takes null only here and there)."""
        fields: dict[str, Any] = {
            "site_name": self.site_name,
            "prod_source_label": self.label,
            "node": self.node[:128],
            "computing_element": self.computing_element,
            "memory": self.memory_mb,
            "disk_space": self.disk_mb,
            "remaining_time": self.remaining_s,
            "scheduler_id": self.scheduler_id,
            "harvester_id": self.harvester_id,
            "worker_id": self.worker_id,
            "n_jobs": 1,
        }
        return {key: value for key, value in fields.items() if value is not None}


class PandaClient:
    """One PanDA server. Not thread-safe: the reporter owns it."""

    def __init__(self, transport: Transport, version: str) -> None:
        """Speak through ``transport``; ``version`` goes into the User-Agent."""
        self._transport = transport
        self._headers = {"User-Agent": f"panda-pod-pilot/{version}", "Accept": "application/json"}

    def acquire_job(self, question: Question) -> Job | None:
        """Ask for one job; None when there is none now, which is never a final answer.

        Raises BadJob for a definition that is not well formed, CredentialError, or a ServerError.
        """
        answer = self._send("POST", "/api/v1/pilot/acquire_jobs", _ACQUIRE, body=question.body())
        envelope = _decode_jobs(answer)
        if envelope.get("success") is not True:
            message = str(envelope.get("message"))
            if message in ("No jobs in PanDA", "Timed out"):
                return None
            raise _refusal("acquire_jobs", message)
        data = envelope.get("data")
        jobs = data.get("jobs") if isinstance(data, dict) else None
        if not isinstance(jobs, list) or not jobs:
            raise ServerGarbled("acquire_jobs: success, but no list of jobs")
        return decode_job(jobs[0])

    def update_job(self, update: Mapping[str, Any]) -> str:
        """Send an update (`fields.FIELDS`) and return the server's command, "" for none.

        Raises ServerUnavailable where nothing was stored but may be later (also for ``success: true`` with
        StatusCode 10 or 30), ServerRefused where it never will be.
        """
        envelope = _decode(self._send("POST", "/api/v1/pilot/update_job", _UPDATE, body=clean(update)))
        data = envelope.get("data")
        if envelope.get("success") is not True:
            raise _refusal("update_job", str(envelope.get("message")))
        if not isinstance(data, dict):
            raise ServerGarbled("update_job: success, but no data")
        return _command(data, str(envelope.get("message")))

    def job_status(self, job_id: int) -> tuple[str, int | None]:
        """The status of a job and its attempt number as the server knows them."""
        query = {"job_ids": job_id}
        envelope = _decode(self._send("GET", "/api/v1/pilot/get_job_status", _QUERY, query=query))
        data = envelope.get("data")
        if envelope.get("success") is not True or not isinstance(data, list) or not data:
            raise _refusal("get_job_status", str(envelope.get("message")))
        entry = data[0] if isinstance(data[0], dict) else {}
        attempt = entry.get("attempt_number")
        return str(entry.get("status")), attempt if isinstance(attempt, int) else None

    def update_worker_status(self, harvester_id: str, worker_id: int, status: str, node: str) -> None:
        """Tell that the worker ``started`` or ``finished``; the server says success in any case."""
        body = {"harvester_id": harvester_id, "worker_id": worker_id, "status": status, "node_id": node}
        envelope = _decode(self._send("POST", "/api/v1/pilot/update_worker_status", _QUERY, body=body))
        if envelope.get("success") is not True:
            raise _refusal("update_worker_status", str(envelope.get("message")))

    def document(self, url: str) -> Any:
        """GET a JSON document (queue or storage data) by absolute URL, or by path on the server."""
        answer = self._send("GET", url, _DOCUMENT)
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise ServerGarbled(f"GET {url}: not JSON: {error}") from error

    def interrupt(self) -> None:
        """End the call in flight; may be called from any thread."""
        self._transport.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _send(
        self,
        method: str,
        url: str,
        limits: Limits,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Answer:
        # exactly application/json: with a charset behind it the server sees no parameters
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        payload = None if body is None else json.dumps(body, allow_nan=False).encode()
        answer = self._transport.call(method, url, body=payload, query=query, headers=headers, limits=limits)
        _check_status(f"{method} {url}", answer)
        return answer


_HTTP_OK, _UNAUTHORIZED, _FORBIDDEN, _SLOW_DOWN, _SERVER_FAULT = 200, 401, 403, (408, 429), 500


def _check_status(call: str, answer: Answer) -> None:
    """Raise for any status but 200 (panda-protocol.md 1.5 and corrections A19)."""
    if answer.status == _HTTP_OK:
        return
    text = " ".join(answer.body[:500].decode("utf-8", "replace").split())[:300]
    said = f"{call}: HTTP {answer.status}: {text}"
    if answer.status == _UNAUTHORIZED or (answer.status == _FORBIDDEN and "oken" in text):
        raise CredentialError(said)
    if answer.status >= _SERVER_FAULT and not any(known in text for known in _PERMANENT_500):
        raise ServerUnavailable(said)
    if answer.status in _SLOW_DOWN:
        raise ServerUnavailable(said)
    raise ServerRefused(said)


def _decode(answer: Answer) -> dict[str, Any]:
    """The envelope of an answer that holds no job: where it is beyond all measure, it is garbled."""
    try:
        return _decode_jobs(answer)
    except BadJob as error:
        raise ServerGarbled(f"the answer is {error.reason}") from None


def _decode_jobs(answer: Answer) -> dict[str, Any]:
    """The envelope of an answer, told by its content and not by its header (trap 8)."""
    try:
        value = parse_json(answer.body)
    except ValueError as error:
        start = answer.body[:80].decode("utf-8", "replace")
        raise ServerGarbled(f"the answer is no JSON ({error}): {start!r}") from error
    if not isinstance(value, dict):
        raise ServerGarbled("the answer is no JSON object")
    return value


def _command(data: Mapping[str, Any], message: str) -> str:
    code = data.get("StatusCode", 0)
    if code == _OK:
        command = data.get("command")
        return "" if command in (None, "NULL") else str(command)
    text = f"update_job: StatusCode {code}: {data.get('ErrorDiag') or message}"
    if code in (_TIMEOUT, _FAILED):
        raise ServerUnavailable(text)
    raise ServerRefused(text)


def _refusal(call: str, message: str) -> CredentialError | ServerRefused | ServerUnavailable:
    if any(known in message for known in _NO_CREDENTIAL):
        return CredentialError(f"{call}: {message}")
    if message in ("Timed out", "Database error", "database error in the PanDA server"):
        return ServerUnavailable(f"{call}: {message}")
    return ServerRefused(f"{call}: {message}")


def first_words(commands: str) -> Sequence[str]:
    """The commands of an answer: a comma list such as ``debug,tobekilled``."""
    return [word.strip() for word in commands.split(",") if word.strip()]
