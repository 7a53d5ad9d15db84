"""The rest of a job's route, walked by another process than the one that began it.

A payload is never run again. Where its exit status 0 was collected, its outputs are what the job was for: what
is not stored yet is stored now, and the job has finished. Else what is left of the payload is ended, and the
job has failed, of the first cause that the journal shows. A job that the server has meanwhile ended or given away
is dropped. A journal that is damaged fails its job: what is missing of it could be the stop, or the exit status.

A final that was said is said again, word for word, for the server may have it. But a payload can write one that says
``finished`` and end its pilot. So before that is said the server is asked. Where it has an end of this attempt, that
stands, and nothing is said. Where it has none, the final on the volume has not arrived and never will, for its pilot
is dead: now it is of no harm to say another. It is said if it is found to be true (`believed.py`); if not, the route
is walked from the look at the outputs, and ends in a final of our own. So the server gets one final, or the same one
twice, but never two that differ, and none that says ``finished`` of files that nobody has seen (promises P1, P2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from pilot.panda.report import Followed
from pilot.payload.proven import end_all_proven
from pilot.resources.probe import Resources
from pilot.runner import telling
from pilot.runner.area import JobArea
from pilot.runner.believed import area_of, is_backed, places_of, points_of, proofs_of, still_stored
from pilot.runner.execution import judge
from pilot.runner.hpo.metrics import recorded, with_metrics
from pilot.runner.joblog import job_log
from pilot.runner.journal import Kind
from pilot.runner.lease import still_ours
from pilot.runner.outputs import stage_out
from pilot.runner.past import Past, Story
from pilot.runner.pod import Pod, Stopwatch
from pilot.runner.reporting import conclude
from pilot.runner.runner import Reached, cause_of, end_job
from pilot.runner.secrecy import hide_again
from pilot.values.deadline import Deadline
from pilot.values.errors import JobError, NoStorage, NoWorkDirectory, OutOfMemory, PilotKilled
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.job import Job
from pilot.values.outcome import PayloadEnd, Phase, State
from pilot.values.site import Site
from pilot.values.stop import Stop, error_of

log = events(__name__)

_KILL_S = 10.0

FindSite = Callable[[Pod], Site]
"""Fetches queue and storage data as they are now; without storages where they cannot be had."""


def recover(story: Story, resources: Resources, pod: Pod, find_site: FindSite) -> bool:
    """Bring the job that the journal shows open to its one end; False when that is not known to the server yet.

    The journal keeps an end that could not be told. Of a job that has ended, as the journal says, the server is asked
    whether that is true. Raises CredentialError.
    """
    past = story.open or story.ended
    if past is None:
        return True
    log.warning("a job of an earlier life is open", job=past.job_id, attempt=past.attempt)
    if past.damage:
        log.error("its journal is damaged", job=past.job_id, what=past.damage)
    end_payload(past, pod)
    area = area_of(past, pod.work)
    if story.open is not None and past.final is not None and not _is_good(past.final):
        return _repeat(past, past.final, area, pod)
    ours = _still_ours(past, pod)
    if ours is None:
        log.error("the server did not tell whether the job is still ours", job=past.job_id)
        return False
    if not ours:
        _drop(past, area, pod)
        return True
    try:
        return _end(past, area, resources, pod, find_site)
    except _NotToldError as error:
        log.error("what was stored could not be looked at: its final is kept", job=past.job_id, why=str(error))
        return False


class _NotToldError(Exception):
    """Nobody tells whether a final is true."""


def _end(past: Past, area: JobArea | None, resources: Resources, pod: Pod, find_site: FindSite) -> bool:
    """The end of a job that is ours, and has none at the server. Raises _NotToldError."""
    opened = _reopened(area)
    with opened or nullcontext():
        if past.final is not None:
            if not _is_good(past.final) or _is_true(past, past.final, opened, pod, find_site):
                return _repeat(past, past.final, area, pod)
            log.error("its final says finished, and that is not what is found: not said", job=past.job_id)
        with Stop(pod.stop) as stop:
            pod.reporter.follow(_followed(past, stop, pod))
            if past.job is None or opened is None:
                return _refuse(past, area, pod)
            hide_again(opened, pod.redactor)
            with job_log(opened.log, pod.redactor):
                return _finish(past, past.job, opened, resources, _at(find_site(pod), pod), stop)


def _reopened(area: JobArea | None) -> JobArea | None:
    """The job's directory, open; None where nothing of it is left to be used."""
    try:
        return area.reopened() if area is not None else None
    except NoWorkDirectory as error:
        log.warning("nothing of the job is left here", why=str(error))
        return None


def _is_good(final: Mapping[str, Any]) -> bool:
    return bool(final["job_status"] == State.FINISHED.value)


def _at(site: Site, pod: Pod) -> Pod:
    """The pod at its site, whose own storages may be sent our credentials."""
    pod.lanes.trust(site.origins())
    return replace(pod, site=site)


def _followed(past: Past, stop: Stop, pod: Pod) -> Followed:
    identity = {**past.identity, "job_id": past.job_id, "attempt_nr": past.attempt}
    return Followed(identity, stop, pod.drain.request)


def end_payload(past: Past, pod: Pod) -> None:
    """End what is proven to be left of the payload, and nothing else (promise P8)."""
    limit = Deadline.after(_KILL_S)
    with pod.watchdog.waiting(limit):
        survivors = end_all_proven(proofs_of(past), limit)
    if survivors:
        log.error("processes of the payload could not be ended", job=past.job_id, count=survivors)


def _still_ours(past: Past, pod: Pod) -> bool | None:
    """Ask for ``patience``, or for what a stop leaves; None without an answer."""
    ours = None
    if pod.stop.reason is None:
        limit = Deadline.after(pod.settings.patience, pod.clock).sooner(pod.deadline)
        ours = still_ours(past.job_id, past.attempt, pod, limit, pod.stop)
    if ours is None and pod.stop.reason is not None:
        ours = still_ours(past.job_id, past.attempt, pod, pod.share("save", 0))
    return ours


def _is_true(past: Past, fields: Mapping[str, Any], area: JobArea | None, pod: Pod, find_site: FindSite) -> bool:
    """Whether a final that says ``finished`` is found to be true. Raises _NotToldError.

    What became of points only the server knows.
    """
    if past.job is None or area is None or past.job.hpo is not None:
        return False
    pod = _at(find_site(pod), pod)
    try:
        with Stop(pod.stop) as stop:
            limit = pod.share("save", pod.settings.patience)
            return is_backed(past, past.job, fields, still_stored(past, past.job, area, pod, limit, stop))
    except JobError as error:
        raise _NotToldError(str(error)) from error


def _repeat(past: Past, fields: Mapping[str, Any], area: JobArea | None, pod: Pod) -> bool:
    """Say the final again: the server may have it, or may never have heard of it."""
    log.info("its final is said again", job=past.job_id, state=fields.get("job_status"))
    with Stop(pod.stop) as stop:
        pod.reporter.follow(_followed(past, stop, pod))
        told = conclude(past.job_id, fields, pod)
    if told and area is not None:
        pod.clear(area)
    return told


def _refuse(past: Past, area: JobArea | None, pod: Pod) -> bool:
    """The final of a job of which nothing can be done any more."""
    told = conclude(past.job_id, telling.refusal(_cause(past), past.began), pod)
    if told and area is not None:
        pod.clear(area)
    return told


def _drop(past: Past, area: JobArea | None, pod: Pod) -> None:
    """Nothing is stored and nothing is said of a job that is not ours any more."""
    log.warning("the server has ended this attempt, or given it away: dropped", job=past.job_id)
    pod.journal.write(Kind.ENDED, verdict="dropped")
    if area is not None:
        pod.clear(area)


def _finish(past: Past, job: Job, area: JobArea, resources: Resources, pod: Pod, stop: Stop) -> bool:
    """Outputs, where there is a good end to report; then log and final."""
    watch = Stopwatch(pod.clock, {Phase.PAYLOAD: past.payload_s} if past.payload else {})
    places = places_of(past, pod.site)
    reached = Reached(payload=past.payload, destinations=places, usage=past.usage, begun=past.storing)
    try:
        _check(past)
        if job.hpo is not None:
            end = _settled(replace(past, points=points_of(past, area, pod)), job, job.hpo, area, pod)
            job, places = with_metrics(job, places, recorded(job, places), pod)
            reached = replace(reached, payload=end, destinations=places)
            past = replace(past, payload=end)
        _judge(past, area, stop)
        with watch.phase(Phase.STAGE_OUT):
            pod.reporter.phase(telling.phase(State.RUNNING, Phase.STAGE_OUT, past.began))
            _check_places(job, places)
            before = still_stored(past, job, area, pod, pod.deadline, stop)
            before = tuple(file for file in before if job.log is None or file.lfn != job.log.lfn)
            stored = stage_out(job, places, before, pod, area, stop, past.storing)
            reached = replace(reached, stored=stored)
    except Exception as error:  # noqa: BLE001 - as in the runner: whatever happens, the job has its final
        reached = replace(reached, cause=cause_of(error))
    return end_job(job, reached, past.began, watch, resources, pod, area)


def _check_places(job: Job, places: Mapping[Any, Any]) -> None:
    """Raise NoStorage for an output without a place."""
    for file in job.outputs:
        if file.lfn not in places:
            raise NoStorage(f"{file.lfn}: the journal names no place for it that the site has", "out")


def _check(past: Past) -> None:
    """Raise the cause that a damaged journal is."""
    if past.damage:
        raise _cause(past)


def _settled(past: Past, job: Job, asked: PointWork, area: JobArea, pod: Pod) -> PayloadEnd:
    """What became of the points of a hyper-parameter job."""
    from pilot.runner.hpo.settling import settled  # noqa: PLC0415 - as in the runner: most jobs need it not

    return settled(past, job.id, asked, area, pod)


def _judge(past: Past, area: JobArea, stop: Stop) -> None:
    """Raise the first cause of a failure; return where status 0 of a payload that nobody stopped was collected."""
    if past.payload is None or (past.payload.points is not None and not past.payload.points.closed):
        raise _cause(past)
    if past.payload.points is not None:
        return
    if past.payload.stopped and past.stop is not None:
        raise error_of(past.stop)
    judge(past.payload, area, stop)
    if past.payload.stopped:
        raise _cause(past)


def _cause(past: Past) -> JobError:
    """Why a job has no good end: a stop that was asked for, or else what the last look at it makes likely."""
    if past.damage:
        return PilotKilled(f"the pilot was killed, and its journal is damaged: {past.damage}")
    if past.stop is not None:
        return error_of(past.stop)
    if past.proof is None or not past.proof.pid:
        when = "before" if past.proof is None else "while"
        return PilotKilled(f"the pilot was killed {when} the payload was started")
    seen = f"its memory, when it was seen last: {past.memory}" if past.memory else "no memory limit was seen"
    if past.memory is not None and past.memory.nearly_full:
        return OutOfMemory(f"killed, out of memory likely; {seen}")
    return PilotKilled(f"the pilot was killed while the payload ran; {seen}")
