"""What the scratch directory can still take: free space and inodes, and the budget less what is really used.

faults.md row 32 and users-ask.md F63: a pod that goes beyond its scratch budget is evicted, however much the file
system has left.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pilot.values.errors import SiteError

_BLOCK = 512  # bytes of st_blocks, whatever the file system's own are
_LIMIT_S = 2.0
_ENTRIES = 500_000


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes of the blocks, and number of the files and directories, below a directory.

    ``stopped`` says why not all was counted, "" if all was: then both are the least that it can be.
    """

    size_bytes: int
    entries: int
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """``free_inodes`` is None where the file system has no such limit; ``used`` is counted for a budget only."""

    path: Path
    free_bytes: int
    free_inodes: int | None
    budget_bytes: int | None = None
    used: Used | None = None

    @property
    def left_bytes(self) -> int | None:
        """What the budget leaves; None without a budget."""
        if self.budget_bytes is None or self.used is None:
            return None
        return max(0, self.budget_bytes - self.used.size_bytes)


def read_disk(work: Path, budget_bytes: int | None = None, limit_s: float = _LIMIT_S) -> Disk:
    """Look now. A directory that is missing is looked at where it would be made. Raises SiteError."""
    place = _existing(work)
    try:
        room = os.statvfs(place)
    except OSError as error:
        raise SiteError(f"scratch directory {work} cannot be used: {error.strerror or error}") from None
    used = None if budget_bytes is None else count(work, limit_s) if place == work else Used(0, 0)
    return Disk(work, room.f_bavail * room.f_frsize, room.f_favail if room.f_files else None, budget_bytes, used)


def check_usable(work: Path) -> None:
    """Raises SiteError where a pilot could neither work in the directory nor make it. Writes nothing."""
    place = _existing(work)
    if not place.is_dir():
        raise SiteError(f"scratch directory {work} cannot be used: {place} is no directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SiteError(f"scratch directory {work} cannot be used: {place} cannot be written")
    if place != work and os.statvfs(place).f_blocks == 0:  # such as /proc, which root may "write"
        raise SiteError(f"scratch directory {work} cannot be used: {place} has no room for files")


def _existing(work: Path) -> Path:
    """The directory, or the next above it that is there."""
    place = work.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return work if place == work.absolute() else place


def count(top: Path, limit_s: float = _LIMIT_S, most: int = _ENTRIES) -> Used:
    """What is really used below ``top``, as `du` counts it: blocks, and a file with several names once.

    Links are not followed, other file systems not entered. It ends after ``limit_s`` seconds or ``most`` entries.
    What vanishes is no error: a payload may be at work.
    """
    until = time.monotonic() + limit_s
    size, entries = 0, 0
    seen: set[tuple[int, int]] = set()
    unreadable: list[str] = []
    for found in _walk(top.resolve(), unreadable):
        entries += 1
        if entries > most:
            return Used(size, most, f"more than {most} entries")
        if time.monotonic() > until:
            return Used(size, entries, f"not done within {limit_s:g} s")
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
        size += found.st_blocks * _BLOCK
    return Used(size, entries, f"cannot be read: {', '.join(unreadable[:3])}" if unreadable else "")


def _walk(top: Path, unreadable: list[str]) -> Iterator[os.stat_result]:
    """All that is below a directory, on its file system; what cannot be entered is put into ``unreadable``."""
    folders, device = [top], top.stat().st_dev if top.exists() else 0
    while folders:
        folder = folders.pop()
        try:
            for entry, found in _entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    if found.st_dev != device:  # of files it tells nothing: overlayfs shows them with others
                        continue
                    folders.append(folder / entry.name)
                yield found
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable.append(f"{folder.name}: {error.strerror}")


def _entries(folder: Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """What is in a directory, unless it has become a link by now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as listed:
            for entry in listed:
                with suppress(FileNotFoundError):
                    yield entry, entry.stat(follow_symlinks=False)
    finally:
        os.close(descriptor)
