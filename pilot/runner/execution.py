"""The payload's step: run it, end it when it must end, and judge how it ended."""

from __future__ import annotations

import re
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace

from pilot.payload.environment import payload_environment
from pilot.payload.process import PayloadProcess
from pilot.payload.proven import proof_before
from pilot.payload.sampler import Sampler
from pilot.resources.memory import MemoryGauge
from pilot.runner.area import JobArea
from pilot.runner.hpo.judging import judge_points
from pilot.runner.journal import Journal, Kind
from pilot.runner.lending import Lent
from pilot.runner.observing import Observer, gpu_sampler
from pilot.runner.pod import Pod
from pilot.runner.room import full
from pilot.values.deadline import Deadline
from pilot.values.errors import DiskFull, GpuLost, OutOfMemory, PayloadFailed, PayloadNotStarted
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.outcome import PayloadEnd
from pilot.values.stop import Reason, Stop, unless_stopped
from pilot.values.usage import Usage

log = events(__name__)

_LANE_LINGER_S = 5.0  # a payload that runs longer gets the memory of the lanes
_SOFT_S = 10.0  # between the soft signal and KILL, where no grace period is running out
_COLLECT_S = 10.0  # for what the kernel does not end at once
_TAIL_BYTES = 4096
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def execute(
    job: Job, equipment: Lent, tell: Callable[[Usage], None], pod: Pod, area: JobArea, stop: Stop
) -> PayloadEnd:
    """The payload ran to its end, or was stopped: on demand, at its wall time, at the pilot's deadline.

    ``tell`` hears what it uses while it runs. Raises GpuLost.
    """
    stop.check()
    environment = payload_environment(
        job, area.work, area.scratch, pod.inherited, pod.site.queue.environ, equipment.credentials, equipment.grant
    )
    walltime = Deadline.after(job.walltime_s, pod.clock) if job.walltime_s else Deadline.never(pod.clock)
    limit = walltime.sooner(pod.deadline)
    mark = uuid.uuid4().hex
    with gpu_sampler(equipment.gpus, pod.visible) as gpus:
        pod.journal.must(Kind.STARTING, proof=proof_before(mark).as_json())
        began = pod.clock.monotonic()

        def ours() -> set[int]:
            return pod.lanes.pids() | ({gpus.pid} if gpus is not None and gpus.pid is not None else set())

        until = Deadline.after(pod.settings.patience).sooner(limit)
        with pod.watchdog.waiting(until), unless_stopped(stop, PayloadNotStarted):
            process = PayloadProcess(
                job.command, area.work, environment, area.stdout, area.stderr,
                mark=mark, ours=ours, until=until, wakers=[stop],
            )  # fmt: skip
        with process:
            pod.journal.write(Kind.STARTED, proof=process.proof.as_json())
            log.info("payload started", pid=process.pid)
            sampler = Sampler(process.living, process.buried_s, process.proof.cgroup)
            observer = Observer(sampler, MemoryGauge.find(), gpus, pod.journal, area.usage, tell)
            with pod.watchdog.guards(process.proof):
                stopped = not _ended(process, limit, observer, pod, stop)
                if stopped:
                    stop.request(Reason.WALLTIME if walltime.expired() else Reason.DEADLINE)
                    _end(process, pod, stop)
                observer.look(last=True)
                until = pod.share("outputs", _COLLECT_S)
                with pod.watchdog.waiting(until):
                    end = process.collect(until)
    end = replace(
        end, memory=observer.memory, stopped=stopped, usage=observer.usage, gpu_lost=observer.lost, disk=full(area)
    )
    _remember(end, pod.clock.monotonic() - began, pod.journal)
    return end


def _ended(process: PayloadProcess, limit: Deadline, observer: Observer, pod: Pod, stop: Stop) -> bool:
    """Wait until it has ended, looking at it now and then; False when the limit or the stop came first."""
    lanes_until = Deadline.after(_LANE_LINGER_S)
    while stop.reason is None and not limit.expired():
        pause = observer.due.sooner(limit).sooner(lanes_until)
        with pod.watchdog.waiting(pause):
            if process.wait(pause, stop):
                return True
        observer.look()
        if lanes_until.expired():
            pod.lanes.close()
            lanes_until = Deadline.never()
    return False


def _end(process: PayloadProcess, pod: Pod, stop: Stop) -> None:
    soft = pod.share("payload", _SOFT_S)
    pod.journal.write(Kind.STOP, reason=stop.reason)
    log.warning("stopping the payload", why=stop.reason, signal=pod.settings.soft_signal, seconds=soft.left())
    hard = pod.share("outputs", _SOFT_S + _COLLECT_S)
    with pod.watchdog.waiting(hard):
        process.stop(soft, signal.Signals[pod.settings.soft_signal], pod.hurry, hard)


def _remember(end: PayloadEnd, seconds: float, journal: Journal) -> None:
    """The one proof of a good end: durable before any output goes out."""
    facts = {"exit_code": end.exit_code, "cpu_s": round(end.cpu_s, 3), "max_rss_kib": end.max_rss_kib}
    journal.write(Kind.EXITED, **facts, seconds=round(seconds, 3), stopped=end.stopped)
    log.info("payload ended", **facts, leftovers=end.leftovers or None, survivors=end.survivors or None)


def judge(end: PayloadEnd | None, area: JobArea, stop: Stop) -> None:
    """Raise why the payload did not end well: the stop that ended it, or else its own exit status."""
    if end is not None and end.points is not None:
        judge_points(end.points, stop)
        return
    if end is not None and end.stopped:
        stop.check()
    if end is None or end.exit_code == 0:
        return
    if end.gpu_lost:
        raise GpuLost(f"the payload failed on a GPU that was lost: {end.gpu_lost}")
    if end.exit_code in _KILLED and end.memory is not None and end.memory.oom_kills:
        raise OutOfMemory(f"the kernel has killed the payload for its memory: {end.memory} were in use at its end")
    how = f"was ended by signal {-end.exit_code}" if end.exit_code < 0 else f"exited with {end.exit_code}"
    line = area.stderr_line()
    words = f"; its last words: {line}" if line else ""
    if end.disk or _NO_SPACE.search(area.stderr.tail(_TAIL_BYTES)):
        raise DiskFull(f"the payload {how}: {end.disk or 'it found no space on a disk'}{words}")
    raise PayloadFailed(f"the payload {how}{words}", end.exit_code)
