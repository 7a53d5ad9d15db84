"""The loop of `pilot run`: look at the pod, take a job, run it, and again, until there is a reason to leave."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pilot import __version__
from pilot.agent.scratch import ALIVE_EVERY_S, ALIVE_NAME, LOG_NAME
from pilot.agent.site import find_site
from pilot.agent.taking import job_file, next_job, pushed_job
from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Transport
from pilot.panda.client import PandaClient
from pilot.panda.report import Pace
from pilot.panda.reporter import Reporter
from pilot.panda.upkeep import LogCache, RefreshToken, SignOfLife, UploadLog, UploadWholeLog
from pilot.panda.wire import Wire
from pilot.resources.probe import Resources, probe
from pilot.runner.pod import Pod
from pilot.runner.refusal import refuse
from pilot.runner.runner import run_job
from pilot.staging.lanes import Lanes, LaneSettings
from pilot.values.deadline import REAL_CLOCK, Deadline
from pilot.values.errors import BadJob
from pilot.values.events import Redactor, events
from pilot.values.job import Job
from pilot.values.settings import Settings
from pilot.values.stop import Drain, Reason, Stop

log = events(__name__)

_LEAVE_S = 5.0  # for the last words to Harvester
_LEAVE_STOPPED_S = 0.2  # where there are none


def run_pilot(settings: Settings, work: Path, inherited: Mapping[str, str], redactor: Redactor, stop: Stop) -> int:
    """Work until there is no job, no time, or a stop. The exit code: 0, or 1 if a final was not delivered.

    ``work`` is the scratch directory, which exists. Raises SiteError, CredentialError or UsageError for what
    cannot be mended by waiting.
    """
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
    credentials = Credentials(_credential_files(settings), redactor.learn, time.time)
    reporter = _reporter(settings, credentials)
    with _working(reporter, settings, work, stop), Lanes(_lane_settings(settings, credentials)) as lanes:
        deadline = Deadline.after(settings.deadline) if settings.deadline else Deadline.never()
        site = find_site(settings, work, reporter, stop, deadline)
        if site is None:
            return 0
        if settings.token_key and "no_token_renewal" not in site.queue.catchall:
            reporter.keep(lambda clock, rng: RefreshToken(clock, rng, credentials, settings.token_client))
        if site.queue.maxtime_s:
            deadline = deadline.sooner(Deadline.after(site.queue.maxtime_s))
        pod = Pod(settings, site, work, reporter, lanes, REAL_CLOCK, redactor, stop, Drain(), deadline, inherited)
        file = job_file(pod)
        return _push(pod, file) if file else _pull(pod)


def _push(pod: Pod, file: str) -> int:
    """Exactly the job of the file."""
    job = pushed_job(file, pod)
    return 0 if job is None or _end(job, probe(pod.work), pod) else 1


def _pull(pod: Pod) -> int:
    """Job after job; 1 when a final could not be delivered."""
    floor = Deadline.after(pod.site.queue.timefloor_s)
    taken = 0
    while not _enough(pod, taken, floor):
        resources = probe(pod.work)
        job = next_job(pod, resources)
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
    if pod.stop.reason is not None or pod.drain.requested or pod.deadline.expired():
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


def _lane_settings(settings: Settings, credentials: Credentials) -> LaneSettings:
    return LaneSettings(
        ca_path=settings.ca or None,
        client_certificate=credentials.certificate or None,
        token_file=settings.storage_token or None,
        http_proxy=settings.http_proxy or None,
        connect_s=settings.connect_limit,
        idle_s=settings.idle_limit,
        patience_s=settings.patience,
    )


def _credential_files(settings: Settings) -> CredentialFiles:
    return CredentialFiles(
        token=settings.token,
        token_folders=(settings.token_dir, settings.work),
        token_key=settings.token_key,
        origin=settings.token_origin,
        certificate=settings.certificate,
    )


def _reporter(settings: Settings, credentials: Credentials) -> Reporter:
    transport = Transport(
        settings.server, verify=settings.ca or True, certificate=credentials.certificate, proxy=settings.http_proxy
    )
    wire = Wire(transport, settings.server, __version__, credentials)
    pace = Pace(settings.heartbeat, min(settings.heartbeat, settings.debug_heartbeat))
    return Reporter(PandaClient(wire), pace=pace)


@contextmanager
def _working(reporter: Reporter, settings: Settings, work: Path, stop: Stop) -> Iterator[None]:
    """The reporter runs, Harvester's record of this worker says so, and our log goes where people look for it."""
    known = (settings.harvester_id, int(settings.worker_id), settings.node) if settings.log_stem else None
    cache = LogCache(settings.log_upload_url, settings.log_stem) if settings.log_upload_url else None
    log_file = work / LOG_NAME
    if known:
        reporter.tell_worker(*known, "started")
    reporter.keep(lambda clock, rng: SignOfLife(clock, rng, work / ALIVE_NAME, ALIVE_EVERY_S))
    if cache:
        reporter.keep(lambda clock, rng: UploadLog(clock, rng, log_file, cache, settings.log_interval))
    reporter.start()
    try:
        yield
    finally:
        if stop.reason is not None:
            reporter.hurry()
        if cache:
            reporter.keep(lambda clock, rng: UploadWholeLog(clock, rng, log_file, cache))
        if known:
            reporter.tell_worker(*known, "finished")
        quick = stop.reason is not None and not known
        reporter.finish(Deadline.after(_LEAVE_STOPPED_S if quick else _LEAVE_S))
