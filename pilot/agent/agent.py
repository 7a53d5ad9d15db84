"""The loop of `pilot run`: look at the pod, take a job, run it, and again, until there is a reason to leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pilot import __version__
from pilot.agent.configuration import Surroundings
from pilot.agent.equipment import equipped, of_this_server
from pilot.agent.health import healthy
from pilot.agent.node import gpu_maps, node_map
from pilot.agent.signals import Asked
from pilot.agent.site import find_site, site_now
from pilot.agent.taking import drained, job_file, next_job, pushed_job
from pilot.panda.upkeep import RefreshToken
from pilot.payload.tree import become_subreaper
from pilot.resources.probe import Resources, probe
from pilot.runner.journal import Journal, Kind
from pilot.runner.past import Story, story_of
from pilot.runner.pod import Pod
from pilot.runner.recovery import recover
from pilot.runner.refusal import refuse
from pilot.runner.runner import run_job
from pilot.values.deadline import Deadline
from pilot.values.errors import BadJob
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.redaction import Redactor
from pilot.values.settings import Settings
from pilot.values.stop import Reason, Stop

log = events(__name__)


def run_pilot(
    settings: Settings, work: Path, around: Surroundings, redactor: Redactor, asked: Asked, journal: Journal
) -> int:
    """Work until there is no job, no time, or a stop. The exit code: 0, or 1 if a final was not delivered.

    ``work`` is the scratch directory, which exists, and whose ``journal`` is ours. Raises SiteError,
    CredentialError or UsageError for what cannot be mended by waiting.
    """
    become_subreaper()
    resources = probe(work, given=around.given, visible=around.visible, wakers=(asked.stop,))
    log.info(
        "pilot starts",
        version=__version__,
        queue=settings.queue,
        server=settings.server,
        cores=resources.cores,
        memory_mib=resources.memory_bytes >> 20,
        disk_mib=resources.disk_bytes >> 20,
        gpus=len(resources.gpus.devices) or None,
    )
    for note in filter(None, (*resources.notes, resources.gpus.note if "/dev" not in resources.gpus.note else "")):
        log.warning(note)
    with equipped(settings, work, around, redactor, asked, journal) as pod:
        code = _live(pod, story_of(journal), resources)
    journal.write(Kind.LEFT, code=code)
    return code


def _live(pod: Pod, story: Story, resources: Resources) -> int:
    """What an earlier life has left is brought to its end first; then jobs, as many as there shall be."""
    if not recover(of_this_server(story, pod.settings), resources, pod, site_now):
        return 1
    pod.journal.anew()
    site = find_site(pod)
    if site is None:
        return 0
    if pod.settings.token_key and "no_token_renewal" not in site.queue.catchall:
        pod.reporter.keep(lambda clock, rng: RefreshToken(clock, rng, pod.credentials, pod.settings.token_client))
    deadline = pod.deadline
    if site.queue.maxtime_s:
        deadline = deadline.sooner(Deadline.after(site.queue.maxtime_s))
    pod = replace(pod, site=site, deadline=deadline)
    pod.lanes.trust(site.origins())
    pod.reporter.tell_node(node_map(pod, resources), gpu_maps(pod, resources.gpus))
    file = job_file(pod)
    if file:
        return _push(pod, file)
    _hold_off(pod, story)
    return _pull(pod, [gpu.uuid for gpu in resources.gpus.devices])


def _hold_off(pod: Pod, story: Story) -> None:
    """A question that an earlier life has left open may have been answered: this slot asks no second one soon."""
    if story.asked_at is None:
        return
    age_s = pod.clock.now().timestamp() - story.asked_at
    rest_s = min(pod.settings.lost_answer, pod.settings.lost_answer - age_s)
    log.warning("an earlier life may have been sent a job that it never saw", ago_s=age_s, wait_s=max(0.0, rest_s))
    if rest_s > 0:
        pod.hear(Deadline.after(rest_s), pod.stop, pod.drain)


def _push(pod: Pod, file: str) -> int:
    """Exactly the job of the file."""
    job = pushed_job(file, pod)
    return 0 if job is None or _end(job, pod.probe(), pod) else 1


def _pull(pod: Pod, gpus: Sequence[str]) -> int:
    """Job after job, while the ``gpus`` are well; 1 when a final could not be delivered."""
    floor = Deadline.after(pod.site.queue.timefloor_s)
    taken = 0
    while not _enough(pod, taken, floor):
        resources = healthy(pod, gpus)
        job = next_job(pod, resources)
        if job is None:
            log.info("no more jobs", taken=taken, why=_why(pod) or "none came in the idle time")
            return 0
        taken += 1
        if not _end(job, resources, pod):
            return 1
    log.info("pilot leaves", jobs=taken, why=_why(pod) or "enough")
    return 0


def _why(pod: Pod) -> str:
    """Who wants no more jobs to be taken, "" if nobody does."""
    return pod.stop.reason or ("draining" if pod.drain.requested else "")


def _enough(pod: Pod, taken: int, floor: Deadline) -> bool:
    """Whether no further job shall be taken. Without max_jobs: one, more only within the queue's timefloor."""
    if pod.stop.reason is not None or drained(pod) or pod.deadline.expired():
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
