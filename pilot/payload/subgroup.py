"""A control group of the payload's own, where the pod lets us make one: all of its members die in one write.

Only version 2 (kernel documentation: admin-guide/cgroup-v2.rst). In most pods /sys/fs/cgroup is read-only, and
everything works without: what is here makes the end of a payload surer and faster, never necessary.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from pilot.values.deadline import Deadline

_PREFIX = "pilot-payload-"
_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # unified, and hybrid mode
_REMOVE_S = 0.5  # the kernel lets go of ended members within milliseconds
_PAUSE_S = 0.01


class Subgroup:
    """The directory of one payload's group, and of the groups that the payload made in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def planned(cls, mark: str, sysroot: Path = Path("/")) -> Subgroup | None:
        """The group that `make` would make; None where we have none ourselves."""
        own = _own_folder(sysroot) if mark else None
        return cls(own / (_PREFIX + mark)) if own is not None else None

    @classmethod
    def make(cls, mark: str, sysroot: Path = Path("/")) -> Subgroup | None:
        """A new group below our own; None without a mark, or where it cannot be made."""
        group = cls.planned(mark, sysroot)
        try:
            if group is not None:
                group.path.mkdir()
        except OSError:
            return None
        return group

    @classmethod
    def found(cls, path: str, mark: str) -> Subgroup | None:
        """A group that an earlier pilot made: the kernel has it, and its name holds the payload's mark."""
        group = cls(Path(path))
        return group if mark and group.path.name == _PREFIX + mark and _is_group(group.path) else None

    @property
    def entrance(self) -> Path:
        """The file that a process writes itself into."""
        return self._file("cgroup.procs")

    def members(self) -> set[int]:
        """Who is in it; members that our pid namespace does not know are left out."""
        found: set[int] = set()
        for folder in self._folders():
            with contextlib.suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return found - {0}

    def kill(self, spared: Collection[int]) -> bool:
        """Kill all members at once, those being forked included. Nothing is done if one of the spared is in it."""
        members = self.members()
        if not members or not members.isdisjoint(spared):
            return False
        try:
            self._file("cgroup.kill").write_text("1")
        except OSError:  # before Linux 5.14
            return False
        return True

    def remove(self) -> bool:
        """Take the empty group away, with those below it; False if that did not succeed within half a second."""
        limit = Deadline.after(_REMOVE_S)
        while self.path.exists():
            for folder in sorted(self._folders(), key=lambda one: len(one.parts), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            if limit.expired():
                return False
            if self.path.exists():
                time.sleep(_PAUSE_S)
        return True

    def _folders(self) -> Iterator[Path]:
        yield self.path
        for folder, names, _ in os.walk(self.path):
            yield from (Path(folder) / name for name in names)

    def _file(self, name: str) -> Path:
        return self.path / name


def _own_folder(sysroot: Path) -> Path | None:
    """Our group's directory: the one at the path that the kernel tells, or at the mount itself, that lists us."""
    try:
        lines = (sysroot / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    path = PurePosixPath(next((line[4:] for line in lines if line.startswith("0::/")), ""))
    own = [path, PurePosixPath()] if ".." not in path.parts else [PurePosixPath()]
    candidates = [sysroot / mount / where for mount in _MOUNTS for where in own]
    return next((one for one in candidates if _lists_us(one)), None)


def _is_group(folder: Path) -> bool:
    """Whether it is a control group, and not a directory of somebody who wants its "members" killed."""
    try:
        real = os.path.realpath(folder) == str(folder)
        device = (folder / "cgroup.procs").stat(follow_symlinks=False).st_dev
    except (OSError, ValueError):
        return False
    return real and any(device == _device(Path("/", mount)) for mount in _MOUNTS)


def _device(mount: Path) -> int | None:
    """The device of a mounted hierarchy; None where none is mounted."""
    try:
        return (mount / "cgroup.controllers").stat().st_dev
    except OSError:
        return None


def _lists_us(folder: Path) -> bool:
    try:
        members = (folder / "cgroup.procs").read_text().split()
    except OSError:
        return False
    return (folder / "cgroup.controllers").exists() and str(os.getpid()) in members
