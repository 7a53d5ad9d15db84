"""The payload's step: run it, end it when it must end, and judge how it ended."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.payload.environment import payload_environment
from pilot.payload.process import PayloadProcess
from pilot.runner.area import JobArea
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import PayloadFailed
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.outcome import PayloadEnd
from pilot.values.stop import Reason, Stop

log = events(__name__)

_LANE_LINGER_S = 5.0  # a payload that runs longer gets the memory of the lanes
_SOFT_S = 10.0  # between TERM and KILL, where no grace period is running out


def execute(job: Job, credentials: Mapping[str, str], pod: Pod, area: JobArea, stop: Stop) -> PayloadEnd:
    """The payload ran to its end, or was stopped: on demand, at its wall time, at the pilot's deadline."""
    stop.check()
    environment = payload_environment(job, area.work, area.scratch, pod.inherited, pod.site.queue.environ, credentials)
    walltime = Deadline.after(job.walltime_s, pod.clock) if job.walltime_s else Deadline.never(pod.clock)
    limit = walltime.sooner(pod.deadline)
    with PayloadProcess(job.command, area.work, environment, area.stdout, area.stderr) as process:
        log.info("payload started", pid=process.pid)
        if not process.wait(Deadline.after(_LANE_LINGER_S).sooner(limit), stop):
            pod.lanes.close()
        if not process.wait(limit, stop):
            stop.request(Reason.WALLTIME if walltime.expired() else Reason.DEADLINE)
            log.warning("stopping the payload", why=stop.reason)
            process.stop(pod.share("payload", _SOFT_S))
        end = process.collect()
    log.info("payload ended", exit_code=end.exit_code, cpu_s=end.cpu_s, max_rss_kib=end.max_rss_kib)
    return end


def judge(end: PayloadEnd | None, area: JobArea, stop: Stop) -> None:
    """Raise why the payload did not end well: the stop that ended it, or else its own exit status."""
    if end is None or end.exit_code == 0:
        return
    stop.check()
    how = f"was ended by signal {-end.exit_code}" if end.exit_code < 0 else f"exited with {end.exit_code}"
    line = area.stderr_line()
    raise PayloadFailed(f"the payload {how}" + (f"; its last words: {line}" if line else ""), end.exit_code)
