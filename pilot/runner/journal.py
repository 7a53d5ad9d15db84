"""The journal: what the pilot has done that the world can see, on the scratch volume, for the next life.

One file for a volume. A record is one line: the CRC-32 of what follows (8 hex digits), a space, a JSON object
with its ``kind`` and ``time``. It is written in one call and is durable before the step goes on; a torn last
record is cut off when the file is opened. The lock on it says whose volume this is: the kernel drops it with
the process, however that ends.

A job has about ten records, a job with many outputs one more for each. The file begins anew with each job.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pilot.values.errors import JournalBroken, SiteError
from pilot.values.events import events

log = events(__name__)

NAME = "journal"
RESERVE_NAME = "journal.reserve"

_RESERVE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Kind(StrEnum):
    """What a record tells. A closed list: `RECORDS` says when each is written and what it holds."""

    LIFE = "life"
    ASKING = "asking"
    NOTHING = "nothing"
    TAKEN = "taken"
    PLANNED = "planned"
    STARTING = "starting"
    STARTED = "started"
    USAGE = "usage"
    STOP = "stop"
    POINT = "point"
    EXITED = "exited"
    STORING = "storing"
    STORED = "stored"
    FINAL = "final"
    ENDED = "ended"
    LEFT = "left"


RECORDS: Mapping[Kind, tuple[str, str]] = {
    Kind.LIFE: ("the pilot starts, and again at the top of each job", "life, pid, settings (no secrets, no defaults)"),
    Kind.ASKING: ("before a job is asked for, once however often it is", ""),
    Kind.NOTHING: ("no answer is awaited any more, and none was a job", "lost: answers that may have held one"),
    Kind.TAKEN: (
        "a job came, before anything is done with it",
        "job, attempt, identity (the fields of each update), area, outputs, log, zips, inputs, cores",
    ),
    Kind.PLANNED: (
        "the plan is made, before a byte is moved",
        "destinations: for each file its ways, as URL, endpoint, URL near us; trusted: servers",
    ),
    Kind.STARTING: (
        "before the payload's process is made",
        "proof: mark, boot, pid namespace, cgroup that is to be made",
    ),
    Kind.STARTED: ("the payload runs", "proof: pid, start time, boot, pid namespace, cgroup, mark"),
    Kind.USAGE: (
        "memory has grown by a twentieth of the limit; after 2, 6, 14 ... s, each half hour at least; at its end",
        "memory_bytes, limit_bytes (0: none), oom_kills of the pod; usage: what all samples sum up to",
    ),
    Kind.STOP: ("a stop was asked for", "reason"),
    Kind.POINT: (
        "each step of a hyper-parameter point, before the world can see what follows from it",
        "point, step (leased, starting, started, ended, measured, told, closed, left); event, number, proof, loss",
    ),
    Kind.EXITED: ("the payload's exit status was collected", "exit_code, cpu_s, max_rss_kib, seconds, stopped (by us)"),
    Kind.STORING: (
        "before outputs or the log are sent, and when others had their places",
        "files; destinations of those that go elsewhere",
    ),
    Kind.STORED: ("one file lies at its destination, verified", "lfn, guid, size, checksum, url, endpoint"),
    Kind.FINAL: ("before the one final is sent; after it nothing else is ever said", "fields"),
    Kind.ENDED: ("the server has answered the final, or has given the attempt away", "verdict"),
    Kind.LEFT: ("the pilot leaves in order", "code"),
}
"""When each record is written, and what it holds beside kind and time (Unix, in seconds)."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds the lock: ``role`` is ``pilot`` or ``recover``."""

    pid: int
    role: str


class Journal:
    """The journal of one volume, held. Writing is thread-safe."""

    def __init__(self, folder: Path, fd: int, records: list[Record]) -> None:
        """Made by `open`."""
        self.folder = folder
        self.past = tuple(records)
        self._fd = fd
        self._lock = threading.Lock()
        self._size = os.lseek(fd, 0, os.SEEK_END)
        self._life: dict[str, Any] = {}

    @classmethod
    def open(cls, folder: Path, role: str = "pilot") -> Journal:
        """Take the volume. Raises Busy while another process holds it, SiteError if it cannot be written."""
        path = folder / NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SiteError(f"the journal {path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Busy(folder, owner_of(folder)) from None
        except OSError as error:
            os.close(fd)
            raise SiteError(f"the journal {path} cannot be locked: {error.strerror}") from None
        try:
            records, good = _parse(_content(fd))
            os.ftruncate(fd, good)
            _reserve(folder / RESERVE_NAME)
            (folder / f"{NAME}.owner").write_text(f"{os.getpid()} {role}\n")
            _sync(folder)
        except OSError as error:
            os.close(fd)
            raise SiteError(f"the journal {path} cannot be used: {error.strerror}") from None
        return cls(folder, fd, records)

    def begin(self, **facts: object) -> None:
        """The first record of a life; `anew` repeats it."""
        self._life = dict(facts)
        self.write(Kind.LIFE, **facts)

    def anew(self) -> None:
        """Forget what has ended: the file starts over with this life's first record."""
        with self._lock:
            try:
                os.ftruncate(self._fd, 0)
                self._size = 0
            except OSError as error:
                log.warning("the journal could not be begun anew", why=error.strerror)
        self.write(Kind.LIFE, **self._life)

    def must(self, kind: Kind, **facts: object) -> None:
        """Write a record without which the next step must not be done. Raises JournalBroken."""
        try:
            self._append(kind, facts)
        except OSError as error:
            raise JournalBroken(
                f"the journal cannot be written: {error.strerror}: nothing more is begun here"
            ) from None

    def write(self, kind: Kind, **facts: object) -> None:
        """Write a record; a failing disk is said and lived with: what is begun is brought to its end from memory."""
        try:
            self._append(kind, facts)
        except OSError as error:
            log.error("the journal cannot be written", record=kind, why=error.strerror)

    def _append(self, kind: Kind, facts: Mapping[str, object]) -> None:
        line = _line({"kind": kind.value, "time": round(time.time(), 3), **facts})
        with self._lock:
            try:
                self._put(line)
            except OSError as error:
                if error.errno not in _FULL or not self._freed():
                    raise
                self._put(line)

    def _put(self, line: bytes) -> None:
        """All of the line, durably, or nothing of it."""
        try:
            done = 0
            while done < len(line):
                done += os.pwrite(self._fd, line[done:], self._size + done)
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def _freed(self) -> bool:
        """Give up the reserve: the disk is full, and the last words need a few kilobytes."""
        try:
            (self.folder / RESERVE_NAME).unlink()
        except OSError:
            return False
        log.warning("the disk is full: the journal's reserve is used")
        return True

    def fileno(self) -> int:
        """The descriptor that holds the lock."""
        return self._fd

    def close(self) -> None:
        """Give the volume back."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        """Close on leaving the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()


class Busy(SiteError):
    """Another process works on this volume."""

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        super().__init__(
            f"{folder} is in use by {'another process' if owner is None else f'{owner.role} {owner.pid}'}: "
            "give each pilot a scratch directory of its own (--work)"
        )
        self.owner = owner


def owner_of(folder: Path) -> Owner | None:
    """Who holds the volume, as it has written down; None where that cannot be read."""
    try:
        pid, role = (folder / f"{NAME}.owner").read_text().split()
        return Owner(int(pid), role)
    except (OSError, ValueError):
        return None


def read(folder: Path) -> tuple[Record, ...]:
    """The records as they stand now, without taking the volume; none where there is no journal."""
    try:
        return tuple(_parse((folder / NAME).read_bytes())[0])
    except OSError:
        return ()


def _line(record: Record) -> bytes:
    text = json.dumps(record, default=str).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0)


def _parse(content: bytes) -> tuple[list[Record], int]:
    """The whole records, and where the last of them ends. What is torn can be at the end only."""
    records: list[Record] = []
    good = 0
    for line in _lines(content):
        record = _record(line)
        if record is None:
            log.warning("the journal ends in a torn record", bytes=len(content) - good)
            break
        records.append(record)
        good += len(line)
    return records, good


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        stop = len(content) if end < 0 else end + 1
        yield content[start:stop]
        start = stop


def _record(line: bytes) -> Record | None:
    """The record of a line; None for one that is torn."""
    crc, space, text = line.partition(b" ")
    if not line.endswith(b"\n") or not space or crc != b"%08x" % zlib.crc32(text[:-1]):
        return None
    value = json.loads(text)
    return value if isinstance(value, dict) else None


def _sync(folder: Path) -> None:
    """Make the file's name as durable as its content."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _reserve(file: Path) -> None:
    """Room for the last records of a job on a disk that the payload has filled."""
    if file.exists() and file.stat().st_size >= _RESERVE_BYTES:
        return
    with contextlib.suppress(OSError), file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, _RESERVE_BYTES)
