"""What the payload has left under the name of an output: a file of its own, or nothing that we would store.

Its work directory is known by the descriptor that was opened before it ran. A link is no output, and neither is a
hard link to a file that has another name elsewhere: that was there before, and is not the payload's to give away.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pilot.files.opening import open_file
from pilot.runner.area import JobArea
from pilot.values.deadline import Deadline
from pilot.values.errors import OutputMissing
from pilot.values.job import OutputFile
from pilot.values.names import Lfn

_LOOK_S = 60.0
_MOST_ENTRIES = 2_000_000


@dataclass(frozen=True, slots=True)
class Left:
    """A regular file: where it lies now, its size in bytes, and its identity, as device and inode."""

    path: Path
    size: int
    identity: tuple[int, int]


class LeftFiles:
    """The payload's directory, once the payload has ended."""

    def __init__(self, area: JobArea) -> None:
        self._area = area

    def find(self, files: Collection[OutputFile]) -> dict[Lfn, Left]:
        """What there is of these outputs. Raises OutputMissing for one that must be there, or is something else."""
        return {file.lfn: self._left(file.lfn) for file in files if self._is_there(file)}

    def open(self, name: Lfn) -> int:
        """The descriptor of a file that the payload has left. Raises OutputMissing."""
        try:
            descriptor = open_file(name, at=self._area.work_folder.fd, links=0)
        except FileNotFoundError:
            raise OutputMissing(f"the payload left no output {name}") from None
        except OSError as error:
            raise OutputMissing(f"the payload left no output {name}: what has this name is {error.strerror}") from None
        status = os.fstat(descriptor)
        if status.st_nlink > 1 and self._names.get(_identity(status), 0) < status.st_nlink:
            os.close(descriptor)
            why = "what has this name is a hard link to a file outside of its directory"
            raise OutputMissing(f"the payload left no output {name}: {why}")
        return descriptor

    def _is_there(self, file: OutputFile) -> bool:
        try:
            self._area.work_folder.status(file.lfn)
        except OSError:
            if file.may_be_missing:
                return False
            raise OutputMissing(f"the payload left no output {file.lfn}") from None
        return True

    def _left(self, name: Lfn) -> Left:
        descriptor = self.open(name)
        try:
            return left_of(descriptor, self._area.work_folder.path / name)
        finally:
            os.close(descriptor)

    @functools.cached_property
    def _names(self) -> Counter[tuple[int, int]]:
        """How many names each file that has several has in the payload's directory, as far as could be looked."""
        found = self._area.root_folder.walk(Deadline.after(_LOOK_S), _MOST_ENTRIES)
        return Counter(_identity(one.status) for one in found if one.is_file and one.status.st_nlink > 1)


def left_of(descriptor: int, path: Path) -> Left:
    """What is told of an open file."""
    status = os.fstat(descriptor)
    return Left(path, status.st_size, _identity(status))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
