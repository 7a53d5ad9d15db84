"""Limits of CPU, memory and processes as the kernel's control groups state them, version 1 and 2.

The group's own and those of each ancestor that is seen: the smallest wins. Nothing is kept from one look to the
next: a pod can be resized in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pilot.resources.groups import Groups, number, read_number, read_text

_UNLIMITED = 1 << 60  # v1 says 9223372036854771712 for "no limit", less where pages are larger
_MOST_CPUS = 1 << 16


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """Each None without a limit; the ``_from`` beside it is the file that says so.

    ``quota`` is in cores, as a fraction; ``memory_bytes`` in bytes; ``pids`` counts processes and threads;
    ``cpuset`` holds the numbers of processors.
    """

    version: int
    quota: float | None = None
    quota_from: str = ""
    memory_bytes: int | None = None
    memory_from: str = ""
    pids: int | None = None
    pids_from: str = ""
    cpuset: frozenset[int] | None = None
    cpuset_from: str = ""


def read_limits(sysroot: Path = Path("/")) -> CgroupLimits:
    """The limits of this process. ``sysroot`` is where proc and sys are looked for."""
    groups = Groups.find(sysroot)
    quota, quota_from = _least(_quotas(groups.folders("cpu")))
    memory, memory_from = _least(_memory_limits(groups.folders("memory")))
    pids, pids_from = _least(
        (read_number(folder / "pids.max"), folder / "pids.max") for folder in groups.folders("pids")
    )
    cpuset, cpuset_from = _cpuset(groups.folders("cpuset"))
    return CgroupLimits(
        groups.version,
        quota,
        quota_from,
        None if memory is None else int(memory),
        memory_from,
        None if pids is None else int(pids),
        pids_from,
        cpuset,
        cpuset_from,
    )


def read_cpu_seconds(sysroot: Path = Path("/")) -> float | None:
    """CPU time that our group has used, in seconds; None where it is not counted."""
    groups = Groups.find(sysroot)
    for folder in groups.folders("cpuacct"):
        nanoseconds = read_number(folder / "cpuacct.usage")
        if nanoseconds is not None:
            return nanoseconds / 1e9
        words = read_text(folder / "cpu.stat").split()
        if "usage_usec" in words[:-1]:
            microseconds = number(words[words.index("usage_usec") + 1])
            return None if microseconds is None else microseconds / 1e6
    return None


def parse_cpus(text: str) -> frozenset[int]:
    """The processors of a list such as ``0-3,8``; what is no such list is passed over."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = number(first), number(last if dash else first)
        if low is not None and high is not None and 0 <= low <= high < _MOST_CPUS:
            found.update(range(low, high + 1))
    return frozenset(found)


def _least(found: Iterable[tuple[float | None, Path]]) -> tuple[float | None, str]:
    """The smallest limit, the innermost of equal ones, and its file."""
    limits = [(value, str(file)) for value, file in found if value is not None and 0 < value < _UNLIMITED]
    return min(limits, key=lambda limit: limit[0], default=(None, ""))


def _quotas(folders: list[Path]) -> Iterable[tuple[float | None, Path]]:
    """CFS quotas in cores."""
    for folder in folders:
        words = read_text(folder / "cpu.max").split()
        if len(words) == 2:
            yield _cores(words[0], words[1]), folder / "cpu.max"
        quota = read_text(folder / "cpu.cfs_quota_us")
        if quota:
            yield _cores(quota, read_text(folder / "cpu.cfs_period_us")), folder / "cpu.cfs_quota_us"


def _cores(quota_us: str, period_us: str) -> float | None:
    quota, period = number(quota_us), number(period_us)
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _memory_limits(folders: list[Path]) -> Iterable[tuple[float | None, Path]]:
    """Version 1 also tells the least limit of all ancestors, those too that we do not see."""
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            yield read_number(folder / name), folder / name
    for folder in folders:
        words = read_text(folder / "memory.stat").split()
        if "hierarchical_memory_limit" in words[:-1]:
            yield number(words[words.index("hierarchical_memory_limit") + 1]), folder / "memory.stat"


def _cpuset(folders: list[Path]) -> tuple[frozenset[int] | None, str]:
    """The innermost cpuset that says something; an ancestor's never holds less."""
    for folder in folders:
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            cpus = parse_cpus(read_text(folder / name))
            if cpus:
                return cpus, str(folder / name)
    return None, ""
