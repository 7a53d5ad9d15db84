"""The shortest route of a job: acquired, not begun, told to have failed."""

from __future__ import annotations

from datetime import UTC

from pilot import __version__
from pilot.panda.report import Followed
from pilot.runner import telling
from pilot.runner.journal import Kind
from pilot.runner.pod import Pod
from pilot.runner.reporting import conclude
from pilot.values.errors import JobError
from pilot.values.events import events
from pilot.values.stop import Stop

log = events(__name__)


def refuse(job_id: int | None, attempt: int | None, error: JobError, pod: Pod) -> bool:
    """Report a job as failed without doing anything of it; whether the server has it.

    A definition without a readable PandaID cannot be reported; the server will time it out.
    """
    if job_id is None:
        log.error("a definition without PandaID cannot be reported", why=str(error))
        return True
    now = pod.clock.now().astimezone(UTC)
    identity = telling.identity(job_id, attempt, pod.settings, pod.site.queue, __version__)
    fields = telling.refusal(error, now)
    pod.journal.write(Kind.TAKEN, job=job_id, attempt=attempt, identity=identity)
    with Stop(pod.stop) as stop:
        pod.reporter.follow(Followed(identity, stop))
        return conclude(job_id, fields, pod)
