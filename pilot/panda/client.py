"""The calls of PanDA's v1 API that concern jobs and workers, each with its time limits beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pilot.net.transport import Limits
from pilot.panda.decode import decode_job
from pilot.panda.fields import clean
from pilot.panda.wire import MOST_MESSAGE, Wire, message_of, refusal, succeeded
from pilot.values.decoding import decode_json
from pilot.values.errors import Garbled, ServerGarbled, ServerRefused, ServerUnavailable
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.names import quoted

log = events(__name__)

_ACQUIRE = Limits(connect_s=15, idle_s=70, total_s=90, most_bytes=8 << 20)  # the server itself looks for 50 s
_UPDATE = Limits(connect_s=15, idle_s=60, total_s=120)
_QUERY = Limits(connect_s=15, idle_s=30, total_s=60)

_OK, _TIMEOUT, _FAILED = 0, 10, 30
_MOST_SECRETS = 1000
_MOST_COMMANDS, _LONGEST_COMMAND = 20, 1000  # set_command takes 250 characters (B2)


@dataclass(frozen=True, slots=True)
class Question:
    """What acquire_jobs is asked. Memory and disk in MB, the time left in seconds; None: not said.

    ``target_architecture`` is the GPU map of panda-protocol.md 9.3 as the server of 1.0.4 takes it (A7).
    """

    site_name: str
    label: str
    node: str
    computing_element: str
    memory_mb: int | None = None
    disk_mb: int | None = None
    remaining_s: int | None = None
    resource_type: str | None = None
    job_type: str | None = None
    scheduler_id: str | None = None
    harvester_id: str | None = None
    worker_id: int | None = None
    target_architecture: Mapping[str, Any] | None = None

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
            "resource_type": self.resource_type,
            "job_type": self.job_type,
            "scheduler_id": self.scheduler_id,
            "harvester_id": self.harvester_id,
            "worker_id": self.worker_id,
            "target_architecture": self.target_architecture,
            "n_jobs": 1,
        }
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A stored update: the server's commands, "" for none, and secrets for a job in debug mode."""

    command: str = ""
    secrets: Mapping[str, Any] | None = None


class PandaClient:
    """One PanDA server. Not thread-safe: the reporter owns it."""

    def __init__(self, wire: Wire) -> None:
        """Speak through ``wire``."""
        self.wire = wire
        self._refused: set[str] = set()

    def acquire_job(self, question: Question) -> Job | None:
        """Ask for one job; None when there is none now, which is never a final answer.

        Raises BadJob for a definition that is not well formed, CredentialError, or a ServerError.
        """
        body = {key: value for key, value in question.body().items() if key not in self._refused}
        envelope = self.wire.post_for_jobs("/api/v1/pilot/acquire_jobs", body, _ACQUIRE)
        if envelope.get("success") is False:
            return self._no_job(question, message_of(envelope))
        data = envelope.get("data")
        jobs = data.get("jobs") if isinstance(data, dict) else None
        if envelope.get("success") is not True or not isinstance(jobs, list) or not jobs:
            raise ServerGarbled("acquire_jobs: neither a refusal, nor success with a list of jobs")
        return decode_job(jobs[0])

    def _no_job(self, question: Question, message: str) -> Job | None:
        """What a message of ``success: false`` means; a keyword that the server does not know is never sent again."""
        if message in ("No jobs in PanDA", "Timed out"):
            return None
        keyword = "target_architecture"
        if "unexpected keyword argument" in message and keyword in message and keyword not in self._refused:
            self._refused.add(keyword)
            return self.acquire_job(question)
        raise refusal("acquire_jobs", message)

    def update_job(self, update: Mapping[str, Any]) -> Acknowledged:
        """Send an update (`fields.FIELDS`).

        Raises ServerUnavailable where nothing was stored but may be later (also for ``success: true`` with
        StatusCode 10 or 30), ServerRefused where it never will be.
        """
        envelope = self.wire.post("/api/v1/pilot/update_job", clean(update, self.wire.redactor), _UPDATE)
        data = succeeded("update_job", envelope)
        if not isinstance(data, dict):
            raise ServerGarbled("update_job: success, but no data")
        return _acknowledged(data, message_of(envelope))

    def job_status(self, job_id: int) -> tuple[str, int | None]:
        """The status of a job and its attempt number as the server knows them; "not found", None for unknown."""
        envelope = self.wire.get("/api/v1/pilot/get_job_status", {"job_ids": job_id}, _QUERY)
        data = succeeded("get_job_status", envelope)
        if not isinstance(data, list) or not data or not isinstance(data[0], dict):
            raise ServerGarbled("get_job_status: success, but no list")
        status, attempt = str(data[0].get("status")), data[0].get("attempt_number")
        if status == "unknown":  # the answer of a server whose database is away (LB "Database outage")
            raise ServerUnavailable("get_job_status: status unknown")
        return status, _whole(attempt) if status != "not found" else None

    def update_worker_status(self, harvester_id: str, worker_id: int, status: str, node: str) -> None:
        """Tell that the worker ``started`` or ``finished``; the server says success in any case."""
        body = {"harvester_id": harvester_id, "worker_id": worker_id, "status": status, "node_id": node}
        succeeded("update_worker_status", self.wire.post("/api/v1/pilot/update_worker_status", body, _QUERY))

    def update_worker_node(self, node: Mapping[str, Any]) -> None:
        """Tell what the node has (panda-protocol.md 9.2); success does not mean stored (A15)."""
        succeeded("update_worker_node", self.wire.post("/api/v1/pilot/update_worker_node", node, _QUERY))

    def update_worker_node_gpu(self, gpu: Mapping[str, Any]) -> None:
        """Tell what GPUs of one model the node has (9.3, A14)."""
        succeeded("update_worker_node_gpu", self.wire.post("/api/v1/pilot/update_worker_node_gpu", gpu, _QUERY))

    def resource_types(self) -> Sequence[Mapping[str, Any]]:
        """The resource types with their limits of cores and memory per core (10)."""
        data = succeeded("get_resource_types", self.wire.get("/api/v1/metaconfig/get_resource_types", {}, _QUERY))
        return data if isinstance(data, list) else []


def _acknowledged(data: Mapping[str, Any], message: str) -> Acknowledged:
    code = data.get("StatusCode", 0)
    if type(code) is not int:
        raise ServerGarbled("update_job: the StatusCode is no number", maybe_done=True)
    if code == _OK:
        return Acknowledged(_commands(data.get("command")), _secrets(data.get("pilotSecrets")))
    text = f"update_job: StatusCode {code}: {str(data.get('ErrorDiag') or message)[:MOST_MESSAGE]}"
    if code in (_TIMEOUT, _FAILED):
        raise ServerUnavailable(text)
    raise ServerRefused(text)


def _whole(value: object) -> int | None:
    """A number that may come as text; None for anything else."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _commands(raw: object) -> str:
    """The field as text; what is none is no command, and no reason to lose an update."""
    if raw in (None, "NULL"):
        return ""
    if not isinstance(raw, str):
        log.warning("the server's command is no text, and is passed over", command=quoted(str(raw)))
        return ""
    return raw


def _secrets(raw: object) -> Mapping[str, Any] | None:
    """Secrets come as JSON text; what cannot be read is left alone: it is no reason to lose an update."""
    try:
        value = decode_json(raw) if isinstance(raw, str) else raw
    except Garbled:
        return None
    return dict(islice(value.items(), _MOST_SECRETS)) if isinstance(value, dict) else None


def first_words(commands: str) -> Sequence[str]:
    """The commands of an answer: a comma list such as ``debug,tobekilled``. No server has more, or longer ones."""
    words = commands.split(",", _MOST_COMMANDS)[:_MOST_COMMANDS]
    return [word.strip()[:_LONGEST_COMMAND] for word in words if word.strip()]
