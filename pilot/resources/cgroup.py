"""Limits of CPU and memory as the kernel's control groups state them, version 1 and 2.

container-lab.md section 2: in a pod the path in /proc/self/cgroup may not exist below the mount (v1 shows
the host's path, the files are at the mount's root), so the path and each of its parents up to the root are
looked at, and the smallest limit wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60  # v1 says 9223372036854771712 for "no limit"


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """``quota`` in cores, ``memory_bytes`` in bytes, None without a limit; each with the file that says so."""

    version: int
    quota: float | None = None
    quota_from: str = ""
    memory_bytes: int | None = None
    memory_from: str = ""


def read_limits(sysroot: Path = Path("/")) -> CgroupLimits:
    """The limits of this process. ``sysroot`` is where proc and sys are looked for."""
    mount = sysroot / "sys/fs/cgroup"
    groups = _own_groups(sysroot / "proc/self/cgroup")
    unified = (mount / "cgroup.controllers").exists()
    cpu, memory = (mount, mount) if unified else (_v1_mount(mount, "cpu"), mount / "memory")
    quotas = [
        (cores, str(file))
        for folder in _folders(cpu, groups.get("" if unified else "cpu", "/"))
        for cores, file in [_quota(folder)]
        if cores is not None
    ]
    limits = [
        (size, str(file))
        for folder in _folders(memory, groups.get("" if unified else "memory", "/"))
        for file in [folder / ("memory.max" if unified else "memory.limit_in_bytes")]
        for size in [_number(file)]
        if size is not None and size < _UNLIMITED
    ]
    version = 2 if unified else 1 if memory.is_dir() or cpu.is_dir() else 0
    quota, quota_from = min(quotas, default=(None, ""))
    memory_bytes, memory_from = min(limits, default=(None, ""))
    return CgroupLimits(version, quota, quota_from, memory_bytes, memory_from)


def _own_groups(file: Path) -> dict[str, str]:
    """Controller to path, from /proc/self/cgroup; version 2 has the controller ''."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    parts = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    return {name: path for _, names, path in parts for name in names.split(",")}


def _v1_mount(mount: Path, controller: str) -> Path:
    candidates = [mount / controller, mount / f"{controller},cpuacct"]
    return next((one for one in candidates if one.is_dir()), candidates[0])


def _folders(mount: Path, path: str) -> list[Path]:
    """The group's folder and its parents, up to the mount; only the mount where the path is not below it."""
    own = PurePosixPath(path.lstrip("/"))
    if ".." in own.parts:
        return [mount]
    return [mount / one for one in (own, *own.parents)]


def _quota(folder: Path) -> tuple[float | None, Path]:
    """Cores that the CFS quota allows, as a fraction."""
    file = folder / "cpu.max"
    words = _text(file).split()
    if not words:
        file = folder / "cpu.cfs_quota_us"
        words = [_text(file), _text(folder / "cpu.cfs_period_us")]
    try:
        quota, period = float(words[0]), float(words[1])
    except (IndexError, ValueError):  # "max", or no such file
        return None, file
    return (quota / period if quota > 0 and period > 0 else None), file


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
