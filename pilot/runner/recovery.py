"""The rest of a job's route, walked by another process than the one that began it.

A payload is never run again. Where its exit status 0 was collected, its outputs are what the job was for: what
is not stored yet is stored now, and the job has finished. Else what is left of the payload is ended, and the
job has failed, of the first cause that the journal shows. A final that was already said is said again, word
for word; a job that the server has meanwhile ended or given away is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pilot.panda.report import Followed
from pilot.payload.proven import end_all_proven
from pilot.resources.probe import Resources
from pilot.runner import telling
from pilot.runner.area import JobArea
from pilot.runner.execution import judge
from pilot.runner.hpo.metrics import recorded, with_metrics
from pilot.runner.joblog import job_log
from pilot.runner.journal import Kind
from pilot.runner.lease import still_ours
from pilot.runner.outputs import stage_out
from pilot.runner.past import Past
from pilot.runner.pod import Pod, Stopwatch
from pilot.runner.reporting import conclude
from pilot.runner.runner import Reached, cause_of, end_job
from pilot.runner.secrecy import hide_again
from pilot.values.deadline import Deadline
from pilot.values.errors import JobError, NoWorkDirectory, OutOfMemory, PilotKilled
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.job import Job
from pilot.values.outcome import PayloadEnd, Phase, State
from pilot.values.stop import Stop, error_of

log = events(__name__)

_KILL_S = 10.0


def recover(past: Past, resources: Resources, pod: Pod) -> bool:
    """Bring the job that the journal shows open to its one end; False when that is not known to the server yet.

    The journal keeps an end that could not be told. Raises CredentialError.
    """
    log.warning("a job of an earlier life is open", job=past.job_id, attempt=past.attempt)
    end_payload(past, pod)
    if past.final is not None:
        return _repeat(past, past.final, pod)
    ours = _still_ours(past, pod)
    if ours is None:
        log.error("the server did not tell whether the job is still ours", job=past.job_id)
        return False
    if not ours:
        _drop(past, pod)
        return True
    with Stop(pod.stop) as stop:
        pod.reporter.follow(Followed(past.identity, stop, pod.drain.request))
        area = _reopened(past)
        if past.job is None or area is None:
            return conclude(past.job_id, telling.refusal(_cause(past), past.began), pod)
        hide_again(area, pod.redactor)
        with area, job_log(area.log, pod.redactor):
            return _finish(past, past.job, area, resources, pod, stop)


def _reopened(past: Past) -> JobArea | None:
    """The job's directory, open; None where nothing of it is left to be used."""
    if past.area is None:
        return None
    try:
        return past.area.reopened()
    except NoWorkDirectory as error:
        log.warning("nothing of the job is left here", why=str(error))
        return None


def end_payload(past: Past, pod: Pod) -> None:
    """End what the journal proves to be left of the payload, and nothing else (promise P8)."""
    proofs = [past.proof] if not past.points else [entry.proof for entry in past.points.values()]
    limit = Deadline.after(_KILL_S)
    with pod.watchdog.waiting(limit):
        survivors = end_all_proven([proof for proof in proofs if proof is not None], limit)
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


def _repeat(past: Past, fields: Mapping[str, object], pod: Pod) -> bool:
    """Say the final again: the server may have it, or may never have heard of it."""
    log.info("its final is said again", job=past.job_id, state=fields.get("job_status"))
    with Stop(pod.stop) as stop:
        pod.reporter.follow(Followed(past.identity, stop))
        told = conclude(past.job_id, fields, pod)
    if told and past.area is not None:
        pod.clear(past.area)
    return told


def _drop(past: Past, pod: Pod) -> None:
    """Nothing is stored and nothing is said of a job that is not ours any more."""
    log.warning("the server has ended this attempt, or given it away: dropped", job=past.job_id)
    pod.journal.write(Kind.ENDED, verdict="dropped")
    if past.area is not None:
        pod.clear(past.area)


def _finish(past: Past, job: Job, area: JobArea, resources: Resources, pod: Pod, stop: Stop) -> bool:
    """Outputs, where there is a good end to report; then log and final."""
    pod.lanes.trust(past.trusted)
    watch = Stopwatch(pod.clock, {Phase.PAYLOAD: past.payload_s} if past.payload else {})
    before = tuple(file for file in past.stored if job.log is None or file.lfn != job.log.lfn)
    reached = Reached(
        payload=past.payload, stored=before, destinations=past.destinations, usage=past.usage, begun=past.storing
    )
    try:
        if job.hpo is not None:
            end = _settled(past, job, job.hpo, area, pod)
            job, destinations = with_metrics(job, past.destinations, recorded(job, past.destinations), pod)
            reached = replace(reached, payload=end, destinations=destinations)
            past = replace(past, payload=end, destinations=destinations)
        _judge(past, area, stop)
        with watch.phase(Phase.STAGE_OUT):
            pod.reporter.phase(telling.phase(State.RUNNING, Phase.STAGE_OUT, past.began))
            stored = stage_out(job, past.destinations, before, pod, area, stop, past.storing)
            reached = replace(reached, stored=stored)
    except Exception as error:  # noqa: BLE001 - as in the runner: whatever happens, the job has its final
        reached = replace(reached, cause=cause_of(error))
    return end_job(job, reached, past.began, watch, resources, pod, area)


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
    if past.stop is not None:
        return error_of(past.stop)
    if past.proof is None or not past.proof.pid:
        when = "before" if past.proof is None else "while"
        return PilotKilled(f"the pilot was killed {when} the payload was started")
    seen = f"its memory, when it was seen last: {past.memory}" if past.memory else "no memory limit was seen"
    if past.memory is not None and past.memory.nearly_full:
        return OutOfMemory(f"killed, out of memory likely; {seen}")
    return PilotKilled(f"the pilot was killed while the payload ran; {seen}")
