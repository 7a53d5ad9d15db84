"""Resources: cores, memory, disk and GPUs that a job can be given here, and where each figure comes from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pilot.resources.cgroup import CgroupLimits, parse_cpus, read_limits
from pilot.resources.cpu import Cpu, read_cpu
from pilot.resources.disk import Disk, read_disk
from pilot.resources.given import NOTHING, Given
from pilot.resources.gpu import Gpus, find_gpus
from pilot.resources.groups import number, read_text
from pilot.resources.visible import Visible
from pilot.values.stop import Waitable

NO_LIMIT = "no limit"
_ANY = Visible()


@dataclass(frozen=True, slots=True)
class Resources:
    """What the pod has: ``cores`` may be a fraction, ``cpus`` are the usable logical ones, sizes in bytes.

    ``limits_from`` says for ``cores``, ``memory``, ``disk`` and ``pids`` what holds the figure down: a file of the
    kernel, a variable or a setting, or in words. ``pids`` is None without a limit. ``notes``: one line for each
    figure that may be other than it seems.
    """

    cores: float
    cpus: int
    memory_bytes: int
    disk_bytes: int
    cgroup_version: int
    limits_from: Mapping[str, str]
    cpu: Cpu
    gpus: Gpus = field(default_factory=Gpus)
    pids: int | None = None
    disk: Disk | None = None
    notes: tuple[str, ...] = ()

    @property
    def whole_cores(self) -> int:
        """As many as a payload is told of, which knows no fractions: at least one."""
        return max(1, int(self.cores))


def probe(
    work: Path,
    sysroot: Path = Path("/"),
    *,
    given: Given = NOTHING,
    visible: Visible = _ANY,
    affinity: frozenset[int] | None = None,
    wakers: Collection[Waitable] = (),
) -> Resources:
    """Look now: a pod can be resized in place. Raises SiteError if the disk cannot be looked at.

    Args:
        work: the directory whose disk counts.
        sysroot: where proc, sys and dev are looked for.
        given: limits from the environment and the settings; the smaller one wins.
        visible: what the environment says of GPUs.
        affinity: processors that we may run on; asked of the kernel if None.
        wakers: what ends the wait for a process that can look at GPUs.
    """
    limits = read_limits(sysroot)
    cpus, cpus_from = _usable_cpus(limits, affinity, sysroot)
    cores, cores_from = _least((cpus, cpus_from), (limits.quota, limits.quota_from), given.cores)
    physical = _physical_memory(sysroot)
    memory, memory_from = _least(
        (physical, "physical memory"), (limits.memory_bytes, limits.memory_from), given.memory_bytes
    )
    disk = read_disk(work, None if given.disk_bytes is None else int(given.disk_bytes[0]))
    left = None if given.disk_bytes is None else (disk.left_bytes, given.disk_bytes[1])
    disk_bytes, disk_from = _least((disk.free_bytes, f"free space of {disk.path}"), left)
    return Resources(
        cores=float(cores),
        cpus=cpus,
        memory_bytes=int(memory),
        disk_bytes=int(disk_bytes),
        cgroup_version=limits.version,
        limits_from={
            "cores": cores_from,
            "memory": memory_from,
            "disk": disk_from,
            "pids": limits.pids_from or NO_LIMIT,
        },
        cpu=read_cpu(sysroot),
        gpus=find_gpus(visible, sysroot=sysroot, wakers=wakers),
        pids=limits.pids,
        disk=disk,
        notes=tuple(_notes(limits, (cpus, physical), given, disk)),
    )


def _least(first: tuple[float, str], *others: tuple[float | None, str] | None) -> tuple[float, str]:
    """The smallest figure, and what says so; of equal ones the first."""
    figures = [first, *((one[0], one[1]) for one in others if one is not None and one[0] is not None)]
    return min(figures, key=lambda figure: figure[0])


def _usable_cpus(limits: CgroupLimits, affinity: frozenset[int] | None, sysroot: Path) -> tuple[int, str]:
    """How many processors the affinity and the cpuset leave; the cpuset's file where that is what leaves no more."""
    allowed = frozenset(os.sched_getaffinity(0)) if affinity is None else affinity
    usable = allowed & limits.cpuset if limits.cpuset else allowed
    if not usable:  # numbered differently: what the kernel says of us is sure
        return len(allowed), "affinity"
    online = parse_cpus(read_text(sysroot / "sys/devices/system/cpu/online"))
    by_cpuset = usable == limits.cpuset and usable != online
    return len(usable), limits.cpuset_from if by_cpuset else "affinity"


def _physical_memory(sysroot: Path) -> int:
    for line in read_text(sysroot / "proc/meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) > 1:
            kib = number(words[1])
            if kib and kib > 0:
                return kib << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _notes(limits: CgroupLimits, node: tuple[int, int], given: Given, disk: Disk) -> list[str]:
    notes = []
    if limits.version == 0:
        notes.append("no control group is seen: there may be limits of CPU, memory and processes that nothing tells")
    notes += _doubts(given.cores, limits.quota, node[0], "cores")
    notes += _doubts(given.memory_bytes, limits.memory_bytes, node[1], "bytes of memory")
    if disk.used is not None and disk.used.stopped:
        notes.append(f"the scratch directory holds more than was counted: {disk.used.stopped}")
    return notes


def _doubts(given: tuple[float, str] | None, stated: float | None, most: float, what: str) -> list[str]:
    """Where a variable holds a figure down, which may be the node's or be out of date."""
    if given is None or given[0] >= most:
        return []
    if stated is None:
        return [f"{given[1]} says {given[0]:g} {what}, and no control group: it may be what the node has for all pods"]
    if given[0] < stated:
        return [f"{given[1]} says {given[0]:g} {what}, {stated:g} are allowed: variables do not follow a resized pod"]
    return []
