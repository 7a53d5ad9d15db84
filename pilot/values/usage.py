"""What a payload uses: memory of its pod as it was seen last, samples of its processes, and what they sum up to."""

from __future__ import annotations

from dataclasses import dataclass, replace

_NEARLY = 0.85


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the pod that the kernel cannot take back, in bytes, and its limit.

    ``oom_kills`` counts what the kernel has killed for memory since the payload began.
    """

    used_bytes: int
    limit_bytes: int
    oom_kills: int = 0

    @property
    def nearly_full(self) -> bool:
        """Whether the next step may well have gone beyond the limit."""
        return self.used_bytes >= _NEARLY * self.limit_bytes

    def __str__(self) -> str:
        """As a message says it."""
        return f"{self.used_bytes >> 20} of {self.limit_bytes >> 20} MiB"


@dataclass(frozen=True, slots=True)
class Sample:
    """A payload at one moment, ``after_s`` seconds from its start.

    CPU time since the start in seconds; memory of all its processes, and what they have read from and written to
    storage since the start, in bytes. ``pss_bytes`` is None where there were too many processes.
    """

    after_s: float
    processes: int
    cpu_s: float
    vmem_bytes: int
    rss_bytes: int
    pss_bytes: int | None
    swap_bytes: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """One GPU of a job: mean utilisation in percent, most memory held on it in bytes, energy in joules.

    None is "not told", as by MIG instances; ``samples`` counts those that told a utilisation.
    """

    uuid: str
    samples: int
    utilisation: float | None
    max_used_bytes: int
    energy_j: float | None

    def after(self, other: GpuUsage) -> GpuUsage:
        """With a later sample."""
        samples = self.samples + other.samples
        means = [(one.utilisation, one.samples) for one in (self, other) if one.utilisation is not None]
        energies = [one.energy_j for one in (self, other) if one.energy_j is not None]
        return GpuUsage(
            self.uuid,
            samples,
            sum(mean * count for mean, count in means) / samples if samples else None,
            max(self.max_used_bytes, other.max_used_bytes),
            max(energies, default=None),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """A payload's whole life as far as it was sampled: peaks of memory, means of it over time, totals of the rest."""

    samples: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    max_vmem: int = 0
    max_rss: int = 0
    max_pss: int = 0
    max_swap: int = 0
    avg_vmem: float = 0.0
    avg_rss: float = 0.0
    avg_pss: float = 0.0
    avg_swap: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    gpus: tuple[GpuUsage, ...] = ()

    def with_gpus(self, seen: tuple[GpuUsage, ...]) -> Usage:
        """With one more sample of the GPUs, which come in the same order each time."""
        if not self.gpus:
            return replace(self, gpus=seen)
        return replace(self, gpus=tuple(old.after(new) for old, new in zip(self.gpus, seen, strict=True)))

    def after(self, sample: Sample) -> Usage:
        """With one more sample. What can only grow does not shrink when processes end."""
        pss = sample.rss_bytes if sample.pss_bytes is None else sample.pss_bytes
        weight = 1.0 if not sample.after_s else min(1.0, (sample.after_s - self.seconds) / sample.after_s)

        def mean(before: float, now: float) -> float:
            return before + (now - before) * (weight if self.samples else 1.0)

        return replace(
            self,
            samples=self.samples + 1,
            seconds=sample.after_s,
            cpu_s=max(self.cpu_s, sample.cpu_s),
            max_vmem=max(self.max_vmem, sample.vmem_bytes),
            max_rss=max(self.max_rss, sample.rss_bytes),
            max_pss=max(self.max_pss, pss),
            max_swap=max(self.max_swap, sample.swap_bytes),
            avg_vmem=mean(self.avg_vmem, sample.vmem_bytes),
            avg_rss=mean(self.avg_rss, sample.rss_bytes),
            avg_pss=mean(self.avg_pss, pss),
            avg_swap=mean(self.avg_swap, sample.swap_bytes),
            read_bytes=max(self.read_bytes, sample.read_bytes),
            written_bytes=max(self.written_bytes, sample.written_bytes),
        )
