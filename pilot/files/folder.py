"""Folder: a directory that is held open, so that what has its name later does not matter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Self

from pilot.files import opening, trees
from pilot.files.kept import KeptFile
from pilot.values.deadline import Deadline


class Folder:
    """An open directory. Names are single components; OSErrors are raised as they come."""

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor over."""
        self.fd = descriptor

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open a directory by a path that is not the payload's: it may be a link. Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def make(self, name: str, mode: int = 0o700) -> Folder:
        """A new directory in this one. Raises OSError, FileExistsError where something has the name."""
        os.mkdir(name, mode, dir_fd=self.fd)
        return self.below(name)

    def below(self, name: str) -> Folder:
        """A directory in this one. Raises OSError."""
        return Folder(opening.open_folder(name, at=self.fd))

    @property
    def path(self) -> Path:
        """Where it lies now, for those who need a path: they must look at what they find there."""
        return Path(os.readlink(f"/proc/self/fd/{self.fd}"))  # noqa: PTH115 - no link of the file system

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        found = os.fstat(self.fd)
        return found.st_dev, found.st_ino

    def status(self, name: str) -> os.stat_result:
        """Of what has the name, of a link itself. Raises OSError."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def open(self, name: str) -> BinaryIO:
        """A regular file with one name, to read from. Raises NotRegular, or another OSError."""
        return reader(opening.open_file(name, at=self.fd))

    def create(self, name: str, mode: int = 0o600) -> KeptFile:
        """A new file in place of whatever has the name but a directory. Raises OSError."""
        return KeptFile(opening.make_file(name, os.O_RDWR | os.O_APPEND, at=self.fd, mode=mode))

    def keep(self, name: str) -> KeptFile:
        """A regular file with one name, to go on with. Raises NotRegular, or another OSError."""
        return KeptFile(opening.open_file(name, os.O_RDWR | os.O_APPEND, at=self.fd))

    def walk(self, until: Deadline, most: int = 500_000) -> trees.Walk:
        """All that is below it."""
        return trees.Walk(self.fd, until, most)

    def remove(self, name: str, until: Deadline) -> str:
        """Remove a file or a tree; "" when it is gone, else why not."""
        return trees.remove(name, until, at=self.fd)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        """Close on leaving the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()


def reader(descriptor: int) -> BinaryIO:
    """An unbuffered stream that reads from a descriptor, and closes it."""
    return open(descriptor, "rb", buffering=0)
