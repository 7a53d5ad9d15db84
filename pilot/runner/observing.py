"""Observing a payload while it runs: one look at a time, for everybody who needs a figure.

The pod's memory is looked at often, as it may end us; the processes and the GPUs seldom, as that costs. What is
seen goes into the journal (a next life must tell the cause), into the heartbeats, and into ``usage.jsonl`` of the
log tarball.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from pilot.files.kept import KeptFile
from pilot.payload.sampler import Sampler
from pilot.resources.gpu import Gpu, GpuSample, GpuSampler, Visible
from pilot.resources.memory import MemoryGauge
from pilot.runner.journal import Journal, Kind
from pilot.values.deadline import Deadline
from pilot.values.errors import GpuLost
from pilot.values.events import events
from pilot.values.usage import GpuUsage, Memory, Usage

log = events(__name__)

_GAUGE_S = 1.0  # between two looks at the memory, where it has a limit: three small files
_SOONEST_S = 0.05  # the same at the beginning, and when the limit comes near
_GPUS_S = 10.0  # between two looks at the GPUs: a millisecond of another process
_FIRST_GPUS_S = 0.5  # the same at the beginning; twice as long each time
_LAST_GPUS_S = 1.0  # for the last look: a library that hangs must not cost the outputs their time
_RECORD_S = 2.0  # before the first record of the journal, unless memory grows; twice as long each time, up to:
_LATEST_RECORD_S = 1800.0


class Gauging:
    """Looks at the memory of the pod, sooner where the limit is near at the present growth."""

    def __init__(self, gauge: MemoryGauge | None) -> None:
        """Without a gauge there is nothing to look at."""
        self._gauge = gauge
        self._last = (Deadline.after(0).at, 0)
        self._pause_s = _SOONEST_S
        self.peak: Memory | None = None
        self.due = Deadline.after(0) if gauge is not None else Deadline.never()

    def look(self) -> bool:
        """Whether there is news: the peak has grown by a twentieth of the limit, or something was killed."""
        seen = self._gauge.read() if self._gauge is not None else None
        if seen is None:
            self.due = Deadline.never()
            return False
        self._plan(seen)
        peak = self.peak or Memory(0, seen.limit_bytes)
        killed, grown = seen.oom_kills > peak.oom_kills, seen.used_bytes - peak.used_bytes > seen.limit_bytes / 20
        if self.peak is not None and not killed and not grown:
            return False
        self.peak = Memory(max(seen.used_bytes, peak.used_bytes), seen.limit_bytes, seen.oom_kills)
        return True

    def _plan(self, seen: Memory) -> None:
        now, (then, before) = Deadline.after(0).at, self._last
        growth = (seen.used_bytes - before) / max(1e-3, now - then)
        self._last = (now, seen.used_bytes)
        left_s = (seen.limit_bytes - seen.used_bytes) / growth if growth > 0 else math.inf
        self._pause_s = max(_SOONEST_S, min(_GAUGE_S, 2 * self._pause_s, left_s / 4))
        self.due = Deadline.after(self._pause_s)


class Observer:
    """All that is looked at while one payload runs."""

    def __init__(
        self,
        sampler: Sampler,
        gauge: MemoryGauge | None,
        gpus: GpuSampler | None,
        journal: Journal,
        file: KeptFile,
        tell: Callable[[Usage], None],
    ) -> None:
        """Samples go into ``file``, one JSON object a line; ``tell`` hears each new state of the usage."""
        self._sampler = sampler
        self._gauging = Gauging(gauge)
        self._gpus = gpus
        self._journal = journal
        self._file = file
        self._tell = tell
        self._sampling = Deadline.after(sampler.interval_s)
        self._gpus_due = Deadline.after(0) if gpus is not None else Deadline.never()
        self._gpus_s = _FIRST_GPUS_S
        self._record = Deadline.after(_RECORD_S)
        self._record_s = _RECORD_S
        self._seen: tuple[GpuSample, ...] = ()
        self.usage = Usage()
        self.lost = ""

    @property
    def memory(self) -> Memory | None:
        """The peak of the pod's memory; None without a limit."""
        return self._gauging.peak

    @property
    def due(self) -> Deadline:
        """When to look again."""
        return self._sampling.sooner(self._gauging.due).sooner(self._gpus_due)

    def look(self, *, last: bool = False) -> None:
        """Look at what is due; at everything, a ``last`` time, after the payload's end. Raises GpuLost before that.

        ``lost`` says why a GPU is lost, "" if none is.
        """
        news = self._gauging.look() if last or self._gauging.due.expired() else False
        if self._gpus is not None and (last or self._gpus_due.expired()):
            self._look_at_gpus(self._gpus, last=last)
        lost = "" if last else self.lost
        if last or lost or self._sampling.expired():
            self._sample()
        if news or last or lost or self._record.expired():
            self._note()
        if lost:
            raise GpuLost(f"a GPU was lost while the payload ran: {lost}")

    def _sample(self) -> None:
        sample = self._sampler.look()
        self._sampling = Deadline.after(self._sampler.interval_s)
        self.usage = self.usage.after(sample)
        gpus = [asdict(one) for one in self._seen]
        with contextlib.suppress(OSError):
            self._file.append((json.dumps({**asdict(sample), **({"gpus": gpus} if gpus else {})}) + "\n").encode())
        self._tell(self.usage)

    def _look_at_gpus(self, gpus: GpuSampler, *, last: bool) -> None:
        self._seen = gpus.sample(_LAST_GPUS_S) if last else gpus.sample()
        self._gpus_due = Deadline.after(self._gpus_s)
        self._gpus_s = min(_GPUS_S, 2 * self._gpus_s)
        self.usage = self.usage.with_gpus(tuple(_gpu_usage(one) for one in self._seen))
        self.lost = next((f"{one.uuid}: {one.why}" for one in self._seen if one.lost), "")

    def _note(self) -> None:
        """A record of the last sample."""
        memory = self._gauging.peak
        self._record_s = min(_LATEST_RECORD_S, 2 * self._record_s)
        self._record = Deadline.after(self._record_s)
        self._journal.write(
            Kind.USAGE,
            memory_bytes=memory.used_bytes if memory else 0,
            limit_bytes=memory.limit_bytes if memory else 0,
            oom_kills=memory.oom_kills if memory else 0,
            usage=asdict(self.usage),
        )


@contextlib.contextmanager
def gpu_sampler(gpus: Sequence[Gpu], visible: Visible) -> Iterator[GpuSampler | None]:
    """A process that looks at a job's GPUs while the block lasts; none without GPUs."""
    if not gpus:
        yield None
        return
    with contextlib.closing(GpuSampler(visible, [gpu.uuid for gpu in gpus])) as sampler:
        yield sampler


def _gpu_usage(sample: GpuSample) -> GpuUsage:
    told = int(sample.utilisation is not None)
    return GpuUsage(sample.uuid, told, sample.utilisation, sample.used_bytes or 0, sample.energy_j)


def metrics(usage: Usage, gpu_names: Sequence[str]) -> dict[str, object]:
    """What has no field of its own at the server, for ``job_metrics`` (panda-protocol.md 5.6)."""
    found: dict[str, object] = {"samples": usage.samples}
    if usage.gpus:
        utilised = [one.utilisation for one in usage.gpus if one.utilisation is not None]
        energies = [one.energy_j for one in usage.gpus if one.energy_j is not None]
        found |= {
            "nGPU": len(usage.gpus),
            "GPU_name": "_".join(sorted({name.replace(" ", "-") for name in gpu_names})) or None,
            "GPU_utilisation": round(sum(utilised) / len(utilised), 1) if utilised else None,
            "GPU_memory_MiB": sum(one.max_used_bytes for one in usage.gpus) >> 20 or None,  # 0: none has told it
            "GPU_energy_J": round(sum(energies)) if energies else None,
        }
    return {name: value for name, value in found.items() if value is not None}
