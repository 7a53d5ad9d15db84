"""Resources: cores, memory and disk that a job can be given here, and where each figure comes from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilot.resources.cgroup import read_limits
from pilot.resources.cpu import Cpu, read_cpu


@dataclass(frozen=True, slots=True)
class Resources:
    """What the pod has: ``cores`` may be a fraction, ``cpus`` are the usable logical ones, sizes in bytes."""

    cores: float
    cpus: int
    memory_bytes: int
    disk_bytes: int
    cgroup_version: int
    limits_from: Mapping[str, str]
    cpu: Cpu


def probe(work: Path, sysroot: Path = Path("/")) -> Resources:
    """Look now: a pod can be resized in place. ``work`` is the directory whose disk counts."""
    limits = read_limits(sysroot)
    cpus = len(os.sched_getaffinity(0))
    quota = limits.quota
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limited = limits.memory_bytes is not None and limits.memory_bytes < total
    by_quota = quota is not None and quota < cpus
    return Resources(
        cores=quota if by_quota and quota is not None else float(cpus),
        cpus=cpus,
        memory_bytes=limits.memory_bytes if limited and limits.memory_bytes else total,
        disk_bytes=shutil.disk_usage(work).free,
        cgroup_version=limits.version,
        limits_from={
            "cores": limits.quota_from if by_quota else "affinity",
            "memory": limits.memory_from if limited else "physical memory",
            "disk": str(work),
        },
        cpu=read_cpu(sysroot),
    )
