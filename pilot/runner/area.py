"""The directories and files of one job on the scratch volume.

``VOLUME/job-ID-ATTEMPT-xxxxxxxx/`` is the payload's: ``work`` and ``tmp``. What the pilot keeps of the job lies in
``VOLUME/pilot/`` below the same name, so that no path of the payload's own tree is a file of ours. A payload of our
uid reaches it all the same. So what is written while it runs was opened before, and is known by its descriptor
from then on; what must be opened later goes through `pilot.files`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Self, TypeVar

from pilot.files.folder import Folder
from pilot.files.kept import KeptFile
from pilot.files.opening import permit
from pilot.files.trees import Found
from pilot.values.deadline import Deadline
from pilot.values.errors import NoWorkDirectory
from pilot.values.events import events

log = events(__name__)

_Open = TypeVar("_Open", Folder, KeptFile)

OWN = "pilot"
LOG, STDOUT, STDERR, USAGE, REPORT = "pilot.log", "payload.stdout", "payload.stderr", "usage.jsonl", "job_report.json"
POINTS = "points"
RESERVE = "log.reserve"

_KEPT = (LOG, STDOUT, STDERR, USAGE)
_NAME = re.compile(r"job-[0-9]{1,18}-[0-9]{1,9}-[0-9a-f]{8}")
_LOOK_S = 10.0
_RESERVE_BYTES = 2 << 20


class JobArea:
    """``root`` is the payload's directory: below it are its ``work``, where it starts, and ``scratch``, its TMPDIR.

    ``made()`` or ``reopened()`` come before all that asks for an open file or directory; `close` ends that.
    """

    root_folder: Folder
    work_folder: Folder
    own: Folder
    """The pilot's own directory."""
    log: KeptFile
    """The pilot's log of this job."""
    stdout: KeptFile
    """The payload's standard output."""
    stderr: KeptFile
    """The payload's standard error."""
    usage: KeptFile
    """The samples of what the payload used, one JSON object a line."""

    def __init__(self, root: Path) -> None:
        """Nothing is opened."""
        self.root = root
        self.work = root / "work"
        self.scratch = root / "tmp"
        self._open: list[Folder | KeptFile] = []

    @classmethod
    def choose(cls, volume: Path, job_id: int, attempt: int) -> JobArea:
        """A name that no earlier life has used; nothing is made."""
        return cls(volume / f"job-{job_id}-{attempt}-{secrets.token_hex(4)}")

    @classmethod
    def left_behind(cls, volume: Path) -> JobArea | None:
        """That of the job that was begun last, of those whose files are still there; None where there are none."""
        try:
            with Folder.at(volume) as top, top.below(OWN) as own, os.scandir(own.fd) as listed:
                found = [(one.stat(follow_symlinks=False).st_ctime_ns, one.name) for one in listed]
        except OSError:
            return None
        names = [name for _, name in sorted(found) if _NAME.fullmatch(name)]
        return cls(volume / names[-1]) if names else None

    def made(self) -> Self:
        """Make and open it all. Raises NoWorkDirectory."""
        try:
            with self._volume() as volume:
                self.root_folder = self._kept(volume.make(self.root.name))
                with _own_folder(volume) as own:
                    self.own = self._kept(own.make(self.root.name))
            self.work_folder = self._kept(self.root_folder.make("work", 0o777))
            self.root_folder.make("tmp", 0o777).close()
            files = [self._kept(self.own.create(name)) for name in _KEPT]
            self._reserve()
        except OSError as error:
            self.close()
            raise NoWorkDirectory(
                f"no directory for a job in {self.root.parent}: {error.filename or ''}: {error.strerror}"
            ) from error
        self.log, self.stdout, self.stderr, self.usage = files
        return self

    def reopened(self) -> Self:
        """Open what an earlier life has left. What is not there any more, or not what it was, is said and made anew.

        Raises NoWorkDirectory where the directories are gone, or are none.
        """
        try:
            with self._volume() as volume:
                self.root_folder = self._kept(volume.below(self.root.name))
                self.work_folder = self._kept(self.root_folder.below("work"))
                with _own_folder(volume) as own:
                    self.own = self._kept(_below_or_new(own, self.root.name))
            files = [self._kept(self._again(name)) for name in _KEPT]
        except OSError as error:
            self.close()
            raise NoWorkDirectory(f"the job's directory {self.root} is not usable: {error.strerror}") from error
        self.log, self.stdout, self.stderr, self.usage = files
        return self

    def _reserve(self) -> None:
        """Space for the log of a job that fills the disk; a disk that has not even that will do without."""
        with closing(self.own.create(RESERVE)) as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)

    def _kept(self, one: _Open) -> _Open:
        self._open.append(one)
        return one

    def _again(self, name: str) -> KeptFile:
        try:
            return self.own.keep(name)
        except OSError as error:
            log.warning("a file of the job is not what it was: begun anew", file=name, why=error.strerror)
        self._aside(name)
        return self.own.create(name)

    def _aside(self, name: str) -> None:
        """A directory in the place of a file of ours gets another name; it goes with the rest."""
        with suppress(OSError):
            os.rename(name, f"{name}.{secrets.token_hex(4)}", src_dir_fd=self.own.fd, dst_dir_fd=self.own.fd)

    @property
    def own_path(self) -> Path:
        """Where the pilot's own directory lies now."""
        return self.own.path

    def fresh(self, name: str) -> Folder:
        """A new, empty directory of the pilot's own, in place of whatever has the name. Raises OSError."""
        self._permit()
        self.own.remove(name, Deadline.after(_LOOK_S))
        return self.own.make(name)

    def _volume(self) -> Folder:
        """The volume. A payload of our uid may have shut what is ours; a volume that others own is as it is."""
        volume = self.root.parent
        with suppress(OSError):
            permit(str(volume))
            permit(str(volume / OWN))
        return Folder.at(volume)

    def _permit(self) -> None:
        """What lies in the pilot's own directory is reached by its path, through directories that are open to us."""
        with suppress(OSError):
            self._volume().close()
            os.fchmod(self.own.fd, 0o700)

    def printed(self, name: str) -> tuple[KeptFile, KeptFile]:
        """New files for the standard output and error of an evaluation of this name. Raises OSError."""
        with _below_or_new(self.own, POINTS) as points, points.make(name) as folder:
            return folder.create("stdout"), folder.create("stderr")

    def evaluations(self) -> Iterator[Found]:
        """What the evaluations of a hyper-parameter job have printed: regular files below `POINTS`, by their paths."""
        try:
            points = self.own.below(POINTS)
        except OSError:
            return
        with points:
            for found in points.walk(Deadline.after(_LOOK_S), 50_000):
                if found.is_file and found.name.startswith("std"):
                    yield found

    def stderr_line(self) -> str:
        """The payload's last words: the last line of its standard error, "" if there is none."""
        return self.stderr.last_line()

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._open.pop().close()

    def __enter__(self) -> Self:
        """Close on leaving the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()

    def remove(self, limit: Deadline) -> None:
        """Delete it all; what cannot be deleted, or not by ``limit``, is said and left."""
        try:
            with self._volume() as volume:
                left = [volume.remove(self.root.name, limit)]
                with suppress(FileNotFoundError), volume.below(OWN) as own:
                    left.append(own.remove(self.root.name, limit))
        except OSError as error:
            left = [str(error)]
        if any(left):
            log.warning("left behind", path=self.root, why="; ".join(filter(None, left)))


def _own_folder(volume: Folder) -> Folder:
    """The directory of all jobs' files of ours. What has its name and is no directory is put aside."""
    try:
        return _below_or_new(volume, OWN)
    except OSError as error:
        aside = f"{OWN}.{secrets.token_hex(4)}"
        os.rename(OWN, aside, src_dir_fd=volume.fd, dst_dir_fd=volume.fd)
        log.warning("not a directory: put aside", file=OWN, now=aside, why=error.strerror)
    return volume.make(OWN)


def _below_or_new(folder: Folder, name: str) -> Folder:
    with suppress(FileExistsError):
        return folder.make(name)
    return folder.below(name)
