"""Where jobs come from: the server, asked until there is one; or, in push mode, a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pilot.agent.node import architecture
from pilot.agent.scratch import DRAIN_NAME
from pilot.panda.client import Question
from pilot.panda.decode import decode_job, parse_json
from pilot.panda.messages import Acquired, Broken, Known, Withdrawn
from pilot.resources.probe import Resources
from pilot.runner.journal import Kind
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import BadJob, SiteError, UsageError
from pilot.values.events import events
from pilot.values.job import Job

log = events(__name__)

CONFIG_MAP = "/scratch/jobconfig/pandaJobData.out"
"""Where Harvester puts the job of push mode (harvester-k8s.md section 4)."""

_WITHDRAW_S = 95.0  # longer than an acquire can take
_TO_BE_RUN = ("defined", "assigned", "activated", "sent", "starting", "running")


def next_job(pod: Pod, resources: Resources) -> Job | BadJob | None:
    """Ask until there is a job, the idle time is over, or a stop or drain comes.

    Raises CredentialError or SiteError. What is asked is in the journal, so that a next life knows of a question
    whose answer was lost.
    """
    idle = Deadline.after(pod.settings.idle).sooner(pod.deadline)
    pod.journal.anew()
    pod.journal.write(Kind.ASKING)
    pod.reporter.acquire(_question(pod, resources), pod.settings.lost_answer, lambda: not drained(pod))
    message = pod.hear(idle, pod.stop, pod.drain)
    unanswered = pod.reporter.unanswered
    if message is None:
        message = _withdraw(pod)
    if isinstance(message, Acquired):
        return message.job
    pod.journal.write(Kind.NOTHING, lost=message.lost if isinstance(message, Withdrawn) else 1)
    if isinstance(message, Broken):
        raise message.error
    if unanswered and pod.stop.reason is None and not pod.drain.requested:
        raise SiteError(f"no answer to acquire_jobs within {pod.settings.idle:g} s: {unanswered}")
    return None


def drained(pod: Pod) -> bool:
    """Whether no more jobs shall be taken: by signal, by the server's softkill, or by the drain file."""
    file = Path(pod.settings.drain_file) if pod.settings.drain_file else pod.work / DRAIN_NAME
    if not pod.drain.requested and os.path.exists(file):  # noqa: PTH110 - Path.exists raises where a disk is ill
        log.info("draining: the drain file is there", file=file)
        pod.drain.request()
    return pod.drain.requested


def _withdraw(pod: Pod) -> Acquired | Broken | Withdrawn | None:
    """Stop asking. A job that is just being handed out is not lost: its answer is awaited, for a while."""
    pod.reporter.withdraw()
    limit = Deadline.after(_WITHDRAW_S)
    while True:
        stopped = pod.stop.reason is not None
        if stopped:
            limit = limit.sooner(Deadline((pod.stop.asked_at or 0) + pod.settings.late_answer))
        message = pod.hear(limit, *([] if stopped else [pod.stop]))
        if isinstance(message, Acquired | Broken | Withdrawn):
            return message
        if limit.expired():
            return None


def _question(pod: Pod, resources: Resources) -> Question:
    settings, queue = pod.settings, pod.site.queue
    limits_mb = (resources.disk_bytes >> 20, queue.maxwdir_mib)
    left = pod.deadline.timeout()
    return Question(
        site_name=queue.resource,
        label=settings.label,
        node=settings.node,
        computing_element=queue.name,
        memory_mb=resources.memory_bytes >> 20,
        disk_mb=min(limit for limit in limits_mb if limit) if any(limits_mb) else None,
        remaining_s=None if left is None else int(left),
        target_architecture=None if "no_target_architecture" in queue.catchall else architecture(resources.gpus),
        resource_type=settings.resource_type or None,
        job_type=settings.job_type or None,
        scheduler_id=settings.scheduler_id or None,
        harvester_id=settings.harvester_id or None,
        worker_id=int(settings.worker_id) if settings.worker_id and settings.harvester_id else None,
    )


def job_file(pod: Pod) -> str:
    """The file of push mode: the one that was named, or Harvester's; "" in pull mode."""
    if pod.settings.job:
        return pod.settings.job
    return CONFIG_MAP if pod.settings.submit_mode.upper() == "PUSH" else ""


def pushed_job(file: str, pod: Pod) -> Job | BadJob | None:
    """The job of the file; None when the server says that it is not to be run (any more), or a stop came.

    A pod may be a re-run of one that was preempted: so status and attempt are asked first
    (harvester-k8s.md section 8). Raises UsageError for a file without a job, SiteError without an answer.
    """
    try:
        job = decode_job(read_definition(Path(file)))
    except BadJob as error:
        if error.job_id is None:
            raise UsageError(f"{file}: {error}") from None
        return error
    pod.reporter.ask_status(job.id)
    message = pod.hear(Deadline.after(pod.settings.idle).sooner(pod.deadline), pod.stop)
    if isinstance(message, Broken):
        raise message.error
    if not isinstance(message, Known):
        if pod.stop.reason is not None:
            return None
        raise SiteError(f"no answer to get_job_status within {pod.settings.idle:g} s: {pod.reporter.unanswered}")
    if message.status in _TO_BE_RUN and message.attempt == job.attempt:
        return job
    log.warning(
        "this job is not to be run", job=job.id, attempt=job.attempt, status=message.status, there=message.attempt
    )
    return None


def read_definition(file: Path) -> Any:
    """The definition: JSON, alone or keyed by PandaID, or URL-encoded text (harvester-k8s.md section 4).

    Raises UsageError for a file without one, BadJob for JSON beyond all measure.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    try:
        value = parse_json(content)
    except ValueError:
        pairs = dict(parse_qsl(content.decode("utf-8", "replace").strip(), keep_blank_values=True))
        if "PandaID" not in pairs:
            raise UsageError(f"{file}: neither JSON nor URL-encoded text with a PandaID") from None
        return pairs
    return _only(file, value)


def _only(file: Path, value: Any) -> Any:
    """The one job in the JSON."""
    if isinstance(value, dict) and "PandaID" not in value:
        value = list(value.values())
    if isinstance(value, list):
        if len(value) != 1:
            raise UsageError(f"{file}: {len(value)} jobs, but push mode takes exactly one")
        (value,) = value
    if not isinstance(value, dict):
        raise UsageError(f"{file}: no job definition: {json.dumps(value)[:60]}")
    return value
