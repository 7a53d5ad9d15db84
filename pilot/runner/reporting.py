"""The last step: the one final is delivered, or its time is over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot.panda.messages import Broken, Reported, Verdict
from pilot.resources.probe import Resources
from pilot.runner import telling
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
    return await_verdict(job.id, telling.final(job, outcome, resources.cpu), pod)


def await_verdict(job_id: int, fields: Mapping[str, Any], pod: Pod) -> bool:
    """Hand the final of the followed job to the reporter and wait for its verdict.

    It is tried for ``patience``; a stop, before or meanwhile, shortens that to what the grace period has left.
    """
    verdict = None
    stopped = False
    while verdict is None and not stopped:
        stopped = pod.stop.reason is not None
        limit = pod.share("report", pod.settings.patience)
        pod.reporter.final(fields, limit)
        if stopped:
            pod.reporter.hurry()
        verdict = _wait(pod, limit, None if stopped else pod.stop)
    return _conclude(job_id, verdict)


def _wait(pod: Pod, limit: Deadline, stop: Stop | None) -> Reported | None:
    """The verdict; None when the stop or the limit came before it."""
    patience = Deadline(limit.at + _SLACK_S, limit.clock)
    message = pod.reporter.mailbox.get(patience, stop)
    while message is not None and not isinstance(message, Reported):
        if isinstance(message, Broken):
            return Reported(Verdict.GAVE_UP, str(message.error))
        message = pod.reporter.mailbox.get(patience, stop)
    return message


def _conclude(job_id: int, verdict: Reported | None) -> bool:
    if verdict is None or verdict.verdict is Verdict.GAVE_UP:
        log.error("the final was not delivered", job=job_id, why=verdict.detail if verdict else "no answer in time")
        return False
    if verdict.verdict is Verdict.REFUSED:
        log.error("the server refused the final", job=job_id, why=verdict.detail)
        return False
    log.info("final delivered", job=job_id, server=verdict.verdict, detail=verdict.detail or None)
    return True
