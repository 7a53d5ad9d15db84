"""The loop of `pilot run`: look at the pod, take a job, run it, and again, until there is a reason to leave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pilot import __version__
from pilot.net.transport import Transport
from pilot.panda.client import PandaClient, Question
from pilot.panda.messages import Acquired, Broken, Documents, Withdrawn
from pilot.panda.reporter import Reporter
from pilot.resources.probe import Resources, probe
from pilot.runner.pod import Pod
from pilot.runner.refusal import refuse
from pilot.runner.runner import run_job
from pilot.staging.lanes import Lanes, LaneSettings
from pilot.values.deadline import REAL_CLOCK, Deadline
from pilot.values.errors import BadJob, SiteError
from pilot.values.events import Redactor, events
from pilot.values.job import Job
from pilot.values.settings import Settings
from pilot.values.site import Site, parse_queue, parse_storages
from pilot.values.stop import Reason, Stop

log = events(__name__)

_WITHDRAW_S = 95.0  # longer than an acquire can take
_LEAVE_S = 5.0  # for the last words to Harvester
_LEAVE_STOPPED_S = 0.2


def run_pilot(settings: Settings, inherited: Mapping[str, str], redactor: Redactor, stop: Stop) -> int:
    """Work until there is no job, no time, or a stop. The exit code: 0, or 1 if a final was not delivered.

    Raises SiteError, CredentialError or UsageError for what cannot be mended by waiting.
    """
    work = _make_work(settings)
    resources = probe(work)
    log.info(
        "pilot starts",
        version=__version__,
        queue=settings.queue,
        server=settings.server,
        cores=resources.cores,
        memory_mib=resources.memory_bytes >> 20,
        disk_mib=resources.disk_bytes >> 20,
    )
    reporter = Reporter(PandaClient(_transport(settings), __version__), heartbeat_s=settings.heartbeat)
    with _working(reporter, settings, stop), Lanes(_lane_settings(settings)) as lanes:
        deadline = Deadline.after(settings.deadline) if settings.deadline else Deadline.never()
        site = _find_site(settings, reporter, stop, deadline)
        if site is None:
            return 0
        return _take_jobs(Pod(settings, site, work, reporter, lanes, REAL_CLOCK, redactor, stop, deadline, inherited))


def _transport(settings: Settings) -> Transport:
    verify = settings.ca or True
    return Transport(settings.server, verify=verify, certificate=settings.certificate, proxy=settings.http_proxy)


def _take_jobs(pod: Pod) -> int:
    """Job after job; 1 when a final could not be delivered."""
    floor = Deadline.after(pod.site.queue.timefloor_s)
    taken = 0
    while not _enough(pod, taken, floor):
        resources = probe(pod.work)
        job = _next_job(pod, resources)
        if job is None:
            log.info("no more jobs", taken=taken, why=pod.stop.reason or "none came in the idle time")
            return 0
        taken += 1
        if not _end(job, resources, pod):
            return 1
    log.info("pilot leaves", jobs=taken, why=pod.stop.reason or "enough")
    return 0


def _enough(pod: Pod, taken: int, floor: Deadline) -> bool:
    """Whether no further job shall be taken. Without max_jobs: one, more only within the queue's timefloor."""
    if pod.stop.reason is not None or pod.deadline.expired():
        return True
    if pod.settings.max_jobs:
        return taken >= pod.settings.max_jobs
    return taken >= 1 and floor.expired()


def _end(job: Job | BadJob, resources: Resources, pod: Pod) -> bool:
    """Bring an acquired job to its end: run it, or refuse it."""
    if isinstance(job, BadJob):
        log.error("job refused", job=job.job_id, why=str(job))
        return refuse(job.job_id, job.attempt, job, pod)
    if pod.stop.reason is not None:
        log.warning("a job came after the stop", job=job.id)
        with Stop() as late:
            late.request(Reason.PREEMPTED)
            return refuse(job.id, job.attempt, late.error(), pod)
    return run_job(job, resources, pod)


def _next_job(pod: Pod, resources: Resources) -> Job | BadJob | None:
    """Ask until there is a job, the idle time is over, or a stop comes."""
    idle = Deadline.after(pod.settings.idle).sooner(pod.deadline)
    pod.reporter.acquire(_question(pod, resources))
    message = pod.reporter.mailbox.get(idle, pod.stop)
    unanswered = pod.reporter.unanswered
    if message is None:
        message = _withdraw(pod)
    if isinstance(message, Broken):
        raise message.error
    if isinstance(message, Acquired):
        return message.job
    if unanswered and pod.stop.reason is None:
        raise SiteError(f"no answer to acquire_jobs within {pod.settings.idle:g} s: {unanswered}")
    return None


def _withdraw(pod: Pod) -> Acquired | Broken | None:
    """Stop asking. A job that is just being handed out is not lost: its answer is awaited, for a while."""
    pod.reporter.withdraw()
    limit = Deadline.after(_WITHDRAW_S)
    while True:
        stopped = pod.stop.reason is not None
        if stopped:
            limit = limit.sooner(Deadline((pod.stop.asked_at or 0) + pod.settings.late_answer))
        message = pod.reporter.mailbox.get(limit, None if stopped else pod.stop)
        if isinstance(message, Acquired | Broken):
            return message
        if isinstance(message, Withdrawn) or limit.expired():
            return None


def _question(pod: Pod, resources: Resources) -> Question:
    settings, queue = pod.settings, pod.site.queue
    disk_mb = resources.disk_bytes >> 20
    left = pod.deadline.timeout()
    return Question(
        site_name=queue.resource,
        label=settings.label,
        node=settings.node,
        computing_element=queue.name,
        memory_mb=resources.memory_bytes >> 20,
        disk_mb=min(disk_mb, queue.maxwdir_mib) if queue.maxwdir_mib else disk_mb,
        remaining_s=None if left is None else int(left),
        scheduler_id=settings.scheduler_id or None,
        harvester_id=settings.harvester_id or None,
        worker_id=int(settings.worker_id) if settings.worker_id and settings.harvester_id else None,
    )


def _find_site(settings: Settings, reporter: Reporter, stop: Stop, deadline: Deadline) -> Site | None:
    """Queue and storage data from files or URLs; None when a stop came first. Raises SiteError."""
    base = settings.server.rstrip("/")
    queue_at = settings.queuedata or f"{base}/cache/schedconfig/{settings.queue}.all.json"
    queue_at = queue_at.replace("{pandaqueue}", settings.queue)
    storages_at = settings.storagedata or f"{base}/cache/ddmendpoints.json"
    remote = [url if "://" in url else "" for url in (queue_at, storages_at)]
    fetched = Documents(None, None)
    if any(remote):
        reporter.fetch(*remote)
        message = reporter.mailbox.get(Deadline.after(settings.idle).sooner(deadline), stop)
        if stop.reason is not None:
            return None
        if not isinstance(message, Documents):
            why = (
                message.error
                if isinstance(message, Broken)
                else f"none within {settings.idle:g} s: {reporter.unanswered}"
            )
            raise SiteError(f"no queue and storage data: {why}")
        fetched = message
    queue = parse_queue(settings.queue, fetched.queue if remote[0] else _read_json(queue_at))
    storages = parse_storages(fetched.storages if remote[1] else _read_json(storages_at))
    if not queue.online:
        raise SiteError(f"queue {queue.name} is not online")
    return Site(queue, storages)


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SiteError(f"{path}: {error}") from None


def _make_work(settings: Settings) -> Path:
    """The scratch directory, made if it is missing. Raises SiteError if it cannot be written."""
    work = Path(settings.work).absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
        probe_file = work / ".pilot-writes-here"
        probe_file.write_bytes(b"")
        probe_file.unlink()
    except OSError as error:
        raise SiteError(f"scratch directory {work} cannot be used: {error}") from None
    return work


def _lane_settings(settings: Settings) -> LaneSettings:
    return LaneSettings(
        ca_path=settings.ca or None,
        client_certificate=settings.certificate or None,
        token_file=settings.storage_token or None,
        http_proxy=settings.http_proxy or None,
        connect_s=settings.connect_limit,
        idle_s=settings.idle_limit,
        patience_s=settings.patience,
    )


@contextmanager
def _working(reporter: Reporter, settings: Settings, stop: Stop) -> Iterator[None]:
    """The reporter runs, and Harvester's record of this worker says so."""
    known = (settings.harvester_id, int(settings.worker_id), settings.node) if settings.worker_id else None
    reporter.start()
    if known:
        reporter.tell_worker(*known, "started")
    try:
        yield
    finally:
        if stop.reason is not None:
            reporter.hurry()
        if known:
            reporter.tell_worker(*known, "finished")
        quick = stop.reason is not None and not known
        reporter.finish(Deadline.after(_LEAVE_STOPPED_S if quick else _LEAVE_S))
