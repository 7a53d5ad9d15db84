"""The payload's step: run it, end it when it must end, and judge how it ended."""

from __future__ import annotations

import math
import signal
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace

from pilot.payload.environment import payload_environment
from pilot.payload.process import PayloadProcess
from pilot.payload.proven import proof_before
from pilot.resources.memory import MemoryGauge
from pilot.runner.area import JobArea
from pilot.runner.journal import Journal, Kind
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import OutOfMemory, PayloadFailed
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.outcome import PayloadEnd
from pilot.values.stop import Reason, Stop
from pilot.values.usage import Memory

log = events(__name__)

_LANE_LINGER_S = 5.0  # a payload that runs longer gets the memory of the lanes
_SOFT_S = 10.0  # between the soft signal and KILL, where no grace period is running out
_COLLECT_S = 10.0  # for what the kernel does not end at once
_LOOK_S = 1.0  # between two looks at the memory, where it has a limit: three small files
_SOONEST_S = 0.05  # the same at the beginning, and when the limit comes near
_NO_LOOK_S = 60.0  # where there is no limit
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def execute(job: Job, credentials: Mapping[str, str], pod: Pod, area: JobArea, stop: Stop) -> PayloadEnd:
    """The payload ran to its end, or was stopped: on demand, at its wall time, at the pilot's deadline."""
    stop.check()
    environment = payload_environment(job, area.work, area.scratch, pod.inherited, pod.site.queue.environ, credentials)
    walltime = Deadline.after(job.walltime_s, pod.clock) if job.walltime_s else Deadline.never(pod.clock)
    usage = Usage(MemoryGauge.find(), pod.journal)
    mark = uuid.uuid4().hex
    pod.journal.must(Kind.STARTING, proof=proof_before(mark).as_json())
    began = pod.clock.monotonic()
    with PayloadProcess(
        job.command, area.work, environment, area.stdout, area.stderr, mark=mark, ours=pod.lanes.pids
    ) as process:
        pod.journal.write(Kind.STARTED, proof=process.proof.as_json())
        log.info("payload started", pid=process.pid)
        with pod.watchdog.guards(process.proof):
            stopped = not _ended(process, walltime.sooner(pod.deadline), usage, pod, stop)
            if stopped:
                stop.request(Reason.WALLTIME if walltime.expired() else Reason.DEADLINE)
                _end(process, pod, stop)
            limit = pod.share("outputs", _COLLECT_S)
            with pod.watchdog.waiting(limit):
                end = replace(process.collect(limit), memory=usage.look(), stopped=stopped)
    _remember(end, pod.clock.monotonic() - began, pod.journal)
    return end


def _ended(process: PayloadProcess, limit: Deadline, usage: Usage, pod: Pod, stop: Stop) -> bool:
    """Wait until it has ended, looking at its memory now and then; False when the limit or the stop came first."""
    lanes_until = Deadline.after(_LANE_LINGER_S)
    while stop.reason is None and not limit.expired():
        pause = Deadline.after(usage.interval_s).sooner(limit).sooner(lanes_until)
        with pod.watchdog.waiting(pause):
            if process.wait(pause, stop):
                return True
        usage.look()
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


class Usage:
    """Looks at the memory; what has grown goes into the journal, for a next life that must tell the cause."""

    def __init__(self, gauge: MemoryGauge | None, journal: Journal) -> None:
        """Without a gauge there is nothing to look at."""
        self._gauge = gauge
        self._journal = journal
        self._told: Memory | None = None
        self._seen = (time.monotonic(), 0)
        self.interval_s = _SOONEST_S if gauge is not None else _NO_LOOK_S

    def look(self) -> Memory | None:
        """The peak so far. Recorded when it has grown by a twentieth of the limit: twenty records a job at most."""
        seen = self._gauge.read() if self._gauge is not None else None
        if seen is not None:
            self._plan(seen)
        if seen is not None and self._is_news(seen):
            self._told = seen
            self._journal.write(
                Kind.USAGE, memory_bytes=seen.used_bytes, limit_bytes=seen.limit_bytes, oom_kills=seen.oom_kills
            )
        return self._told

    def _plan(self, seen: Memory) -> None:
        """The next look: sooner where the limit is near at the present growth, so that the last one tells why."""
        now, (then, before) = time.monotonic(), self._seen
        growth = (seen.used_bytes - before) / max(1e-3, now - then)
        self._seen = (now, seen.used_bytes)
        left_s = (seen.limit_bytes - seen.used_bytes) / growth if growth > 0 else math.inf
        self.interval_s = max(_SOONEST_S, min(_LOOK_S, 2 * self.interval_s, left_s / 4))

    def _is_news(self, seen: Memory) -> bool:
        if self._told is None or seen.oom_kills > self._told.oom_kills:
            return True
        return seen.used_bytes - self._told.used_bytes > seen.limit_bytes / 20


def judge(end: PayloadEnd | None, area: JobArea, stop: Stop) -> None:
    """Raise why the payload did not end well: the stop that ended it, or else its own exit status."""
    if end is not None and end.stopped:
        stop.check()
    if end is None or end.exit_code == 0:
        return
    if end.exit_code in _KILLED and end.memory is not None and end.memory.oom_kills:
        raise OutOfMemory(f"the kernel has killed the payload for its memory: {end.memory} were in use at its end")
    how = f"was ended by signal {-end.exit_code}" if end.exit_code < 0 else f"exited with {end.exit_code}"
    line = area.stderr_line()
    raise PayloadFailed(f"the payload {how}" + (f"; its last words: {line}" if line else ""), end.exit_code)
