"""The last step: the one final is delivered, or its time is over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot.panda.fields import without_secrets
from pilot.panda.messages import Broken, Reported, Verdict
from pilot.resources.probe import Resources
from pilot.runner import telling
from pilot.runner.journal import Kind
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.outcome import Outcome
from pilot.values.stop import Stop

log = events(__name__)

_SLACK_S = 1.0  # the reporter's own deadline comes first


def deliver(job: Job, outcome: Outcome, resources: Resources, pod: Pod) -> bool:
    """Report the outcome; whether the server has it."""
    log.info("reporting", state=outcome.state, code=outcome.cause.code if outcome.cause else 0)
    usage = outcome.usage if outcome.payload is None else outcome.payload.usage
    lent = {one.uuid for one in usage.gpus} if usage else set()
    names = [gpu.name for gpu in resources.gpus.devices if gpu.uuid in lent]
    return conclude(job.id, telling.final(job, outcome, resources.cpu, names), pod)


def conclude(job_id: int, fields: Mapping[str, Any], pod: Pod) -> bool:
    """Say the one final of the followed job, which is in the journal before; whether the server has answered it.

    A final without an answer stays open in the journal: the next life says it again, word for word, and does not
    know the job's secrets.
    """
    fields = without_secrets(fields, pod.redactor)
    pod.journal.write(Kind.FINAL, fields=fields)
    verdict = _await_verdict(fields, pod)
    if verdict is None or verdict.verdict is Verdict.GAVE_UP:
        log.error("the final was not delivered", job=job_id, why=verdict.detail if verdict else "no answer in time")
        return False
    pod.journal.write(Kind.ENDED, verdict=verdict.verdict.value)
    return _told(job_id, verdict)


def _await_verdict(fields: Mapping[str, Any], pod: Pod) -> Reported | None:
    """Hand the final to the reporter and wait for its verdict.

    It is tried for ``patience``; a stop, before or meanwhile, shortens that to what the grace period has left,
    and a second one to less.
    """
    verdict = None
    for waker in (pod.stop, pod.hurry, None):
        if waker is not None and waker.reason is not None:
            continue
        limit = pod.share("report", pod.settings.patience)
        pod.reporter.final(fields, limit)
        if pod.stop.reason is not None:
            pod.reporter.hurry()
        verdict = _wait(pod, limit, *filter(None, [waker]))
        if verdict is not None or limit.expired():
            break
    return verdict


def _wait(pod: Pod, limit: Deadline, *wakers: Stop) -> Reported | None:
    """The verdict; None when a stop or the limit came before it. A grace period has no slack."""
    patience = limit if pod.stop.reason is not None else Deadline(limit.at + _SLACK_S, limit.clock)
    message = pod.hear(patience, *wakers)
    while message is not None and not isinstance(message, Reported):
        if isinstance(message, Broken):
            return Reported(Verdict.GAVE_UP, str(message.error))
        message = pod.hear(patience, *wakers)
    return message


def _told(job_id: int, verdict: Reported) -> bool:
    if verdict.verdict is Verdict.REFUSED:
        log.error("the server refused the final", job=job_id, why=verdict.detail)
        return False
    log.info("final delivered", job=job_id, server=verdict.verdict, detail=verdict.detail or None)
    return True
