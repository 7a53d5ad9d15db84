"""What kind of processors this node has: for the node's record, and for the fields that normalise CPU time."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilot.resources.cgroup import parse_cpus
from pilot.resources.groups import number, read_number, read_text

# the feature flags that each level adds (x86-64 psABI, "Micro-Architecture Levels"), as the kernel writes them
_LEVELS = (
    ("x86_64-v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("x86_64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ("x86_64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)

_PLACE = "sys/devices/system/cpu"


@dataclass(frozen=True, slots=True)
class Cpu:
    """``model`` as the kernel names it, ``level`` such as x86_64-v3; "" or None where they are not known.

    Of the whole node, not of what we may use of it. ``mhz`` is the highest clock where the kernel tells it, else
    the present one of the first processor.
    """

    model: str = ""
    level: str = ""
    avx2: bool = False
    vendor: str = ""
    architecture: str = ""
    sockets: int | None = None
    cores_per_socket: int | None = None
    threads_per_core: int | None = None
    n_logical: int | None = None
    mhz: float | None = None

    @property
    def unit(self) -> str:
        """The unit of CPU time as PanDA writes it: ``s+<model>+AVX2`` (panda-protocol.md 5.1)."""
        return "+".join(filter(None, ("s", self.model, "AVX2" if self.avx2 else "")))


def read_cpu(sysroot: Path = Path("/")) -> Cpu:
    """From /proc/cpuinfo and /sys/devices/system/cpu; levels are known of x86-64 only."""
    blocks = [_facts(block) for block in read_text(sysroot / "proc/cpuinfo").split("\n\n")]
    facts = blocks[0]
    flags = set(facts.get("flags", "").split())
    sockets, cores, threads = _topology(sysroot) or _topology_of(blocks)
    return Cpu(
        model=facts.get("model name", ""),
        level=_level(flags),
        avx2="avx2" in flags,
        vendor=facts.get("vendor_id", ""),
        architecture=platform.machine(),
        sockets=sockets,
        cores_per_socket=cores // sockets if cores and sockets else None,
        threads_per_core=threads // cores if threads and cores else None,
        n_logical=threads,
        mhz=_mhz(sysroot, facts),
    )


def _facts(block: str) -> dict[str, str]:
    lines = [line.partition(":") for line in block.splitlines()]
    return {name.strip(): " ".join(value.split()) for name, colon, value in lines if colon}


def _level(flags: set[str]) -> str:
    level = "x86_64-v1" if "lm" in flags else ""
    for name, needed in _LEVELS:
        if not level or not needed <= flags:
            break
        level = name
    return level


_Topology = tuple[int | None, int | None, int | None]
"""Sockets, cores and logical processors of the node."""


def _topology(sysroot: Path) -> _Topology | None:
    """From sysfs, which knows it on every architecture; None where it is not complete."""
    place = sysroot / _PLACE
    online = parse_cpus(read_text(place / "online"))
    folders = [place / f"cpu{one}/topology" for one in online]
    packages = {read_text(folder / "physical_package_id") for folder in folders}
    cores = {read_text(folder / "thread_siblings_list") for folder in folders}
    if not online or "" in packages or "" in cores:
        return None
    return len(packages), len(cores), len(online)


def _topology_of(blocks: list[dict[str, str]]) -> _Topology:
    """From /proc/cpuinfo, as x86 writes it."""
    logical = [block for block in blocks if "processor" in block]
    sockets = len({block["physical id"] for block in logical if "physical id" in block}) or None
    each = number(logical[0].get("cpu cores", "")) if logical else None
    return sockets, each * sockets if each and sockets else None, len(logical) or None


def _mhz(sysroot: Path, facts: Mapping[str, str]) -> float | None:
    khz = read_number(sysroot / _PLACE / "cpu0/cpufreq/cpuinfo_max_freq")
    if khz and khz > 0:
        return khz / 1000
    whole, _, fraction = facts.get("cpu MHz", "").partition(".")
    if not number(whole) or (fraction and number(fraction) is None):
        return None
    return float(f"{whole}.{fraction or 0}")
