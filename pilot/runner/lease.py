"""Whether an attempt is still ours: a server that has heard nothing of it for long gives it to somebody else."""

from __future__ import annotations

from pilot.panda.messages import Broken, Known
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import GivenAway, LeaseUnknown, ServerRefused
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.stop import Reason, Stop, Waitable

log = events(__name__)

OURS = ("sent", "starting", "running", "transferring")
"""The states of a job whose pilot has not told its end (panda-protocol.md 5.1)."""


def still_ours(job_id: int, attempt: int | None, pod: Pod, limit: Deadline, *wakers: Waitable) -> bool | None:
    """Ask the server; None when the limit, or one of ``wakers``, came before its answer. Raises CredentialError."""
    pod.reporter.ask_status(job_id)
    message = pod.hear(limit, *wakers)
    while message is not None and not isinstance(message, Known | Broken):
        message = pod.hear(limit, *wakers)
    if isinstance(message, Known):
        ours = message.status in OURS and message.attempt in (attempt, None)
        log.info("asked for the job", job=job_id, status=message.status, attempt=message.attempt, ours=ours)
        return ours
    if isinstance(message, Broken):
        if isinstance(message.error, ServerRefused):
            log.warning("the server does not tell of the job", job=job_id, why=str(message.error))
            return None
        raise message.error
    pod.reporter.withdraw()
    return None


def confirm(job: Job, pod: Pod, stop: Stop) -> None:
    """Before outputs go out after a long silence: is the job still ours? Raises Stopped, GivenAway, LeaseUnknown."""
    silent_s = pod.reporter.silent_s
    if silent_s < pod.settings.lease:
        return
    log.warning("the server has not answered for long: it is asked before outputs go out", seconds=silent_s)
    limit = Deadline.after(pod.settings.patience, pod.clock).sooner(pod.deadline)
    ours = still_ours(job.id, job.attempt, pod, limit, stop)
    stop.check()
    if ours is None:
        raise LeaseUnknown(f"silent for {silent_s:.0f} s, the server could not be asked whether the job is still ours")
    if not ours:
        stop.request(Reason.TOBEKILLED)
        raise GivenAway(str(stop.error()), stop.error().code)
