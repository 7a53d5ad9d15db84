"""The journal: what the pilot has done that the world can see, on the scratch volume, for the next life.

One file for a volume, whose lines `records.py` writes and reads. A record is durable before the step goes on; a torn
last one is cut off when the file is opened, and of a damaged file a copy is kept. The lock on it, and on its
directory, says whose volume this is: the kernel drops it with the process, however that ends.

A job has about ten records, a job with many outputs one more for each. The file begins anew with each job.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pilot.files.opening import open_file, read_at, read_file, replace_file
from pilot.payload.procfs import boot_id
from pilot.runner.own import open_own, put_aside
from pilot.runner.records import MOST_BYTES, Content, Record, line_of, parse
from pilot.values.errors import JournalBroken, SiteError
from pilot.values.events import events

log = events(__name__)

NAME = "journal"
RESERVE_NAME = "journal.reserve"

_OWNER_NAME = f"{NAME}.owner"
_RESERVE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (f"{NAME}.damaged-1", f"{NAME}.damaged-2", f"{NAME}.damaged-3")
_TRIES = 5
_ROLES = ("pilot", "recover")


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
    DAMAGED = "damaged"


RECORDS: Mapping[Kind, tuple[str, str]] = {
    Kind.LIFE: (
        "the pilot starts, and again at the top of each job",
        "life, pid, place (which pod), settings (no secrets, no defaults)",
    ),
    Kind.ASKING: ("before a job is asked for, once however often it is", ""),
    Kind.NOTHING: ("no answer is awaited any more, and none was a job", "lost: answers that may have held one"),
    Kind.TAKEN: (
        "a job came, before anything is done with it",
        "job, attempt, identity (fields of each update), area, outputs, log, zips, inputs, cores; seal: a SHA-256",
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
    Kind.EXITED: (
        "the payload's exit status was collected",
        "exit_code, cpu_s, max_rss_kib, seconds, stopped (by us); seal: what only the life that took the job knew",
    ),
    Kind.STORING: (
        "before outputs or the log are sent, and when others had their places",
        "files; destinations of those that go elsewhere",
    ),
    Kind.STORED: ("one file lies at its destination, verified", "lfn, guid, size, checksum, url, endpoint"),
    Kind.FINAL: ("before the one final is sent; after it nothing else is ever said", "fields"),
    Kind.ENDED: ("the server has answered the final, or has given the attempt away", "verdict"),
    Kind.LEFT: ("the pilot, or a recoverer, leaves in order", "code"),
    Kind.DAMAGED: ("the file was found damaged", "what; as_name: where a copy of it lies"),
}
"""When each record is written, and what it holds beside kind and time (Unix, in seconds)."""

OF_NO_JOB = (Kind.LIFE, Kind.ASKING, Kind.NOTHING, Kind.LEFT, Kind.DAMAGED)
"""All other records are of the job that was taken last."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds the lock: ``role`` is ``pilot`` or ``recover``."""

    pid: int
    role: str


class Journal:
    """The journal of one volume, held. Writing is thread-safe."""

    def __init__(self, folder: Path, at: int, fd: int, content: Content) -> None:
        """Made by `open`; ``at`` is the directory's descriptor."""
        self.folder = folder
        self.past = content.records
        self._damage = "" if any(one["kind"] == Kind.DAMAGED for one in self.past) else content.damage
        if self._damage:
            self.past += ({"kind": Kind.DAMAGED.value, "time": time.time(), "what": self._damage},)
        self._at = at
        self._fd = fd
        self._lock = threading.Lock()
        self._size = content.end
        self._life: dict[str, Any] = {}
        self._job: dict[str, Any] = {}
        self._seal = ""

    @classmethod
    def open(cls, folder: Path, role: str = "pilot") -> Journal:
        """Take the volume. Raises Busy while another process holds it, SiteError if it cannot be used."""
        with contextlib.ExitStack() as opened:
            try:
                at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, at)
                fd = _taken(folder, at)
                opened.callback(os.close, fd)
                content = parse(read_at(fd, 0, MOST_BYTES + 1))
                if content.torn:
                    log.warning("the journal ends in a torn record", bytes=content.torn)
                os.ftruncate(fd, content.end)
                _reserve(at)
                _write_owner(f"{os.getpid()} {role}\n".encode(), at)
                os.fsync(at)  # the file's name is as durable as its content
            except OSError as error:
                raise SiteError(_no_use(folder, error)) from None
            opened.pop_all()
        return cls(folder, at, fd, content)

    def begin(self, **facts: object) -> None:
        """The first record of a life; `anew` repeats it. Of a damaged journal a copy is kept."""
        self._life = {"place": place(), **facts}
        if self._damage:
            self.write(Kind.DAMAGED, what=self._damage, as_name=_kept(self._damage, self._fd, self._at))
        self.write(Kind.LIFE, **self._life)

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
        about = self._about(kind, facts)
        line = line_of({"kind": kind.value, "time": round(time.time(), 3), **about, **facts, **self._sealed(kind)})
        with self._lock:
            try:
                self._put(line)
            except OSError as error:
                if error.errno not in _FULL or not self._freed():
                    raise
                self._put(line)

    def _about(self, kind: Kind, facts: Mapping[str, object]) -> dict[str, Any]:
        """Whose record this is: any one that is left of a job tells whose job it was."""
        if kind is Kind.TAKEN:
            self._job = {name: facts[name] for name in ("job", "attempt") if name in facts}
        return {} if kind in OF_NO_JOB else self._job

    def _sealed(self, kind: Kind) -> dict[str, str]:
        """What proves the record of the exit status: while the payload runs, nobody but this process knows it."""
        if kind is Kind.TAKEN:
            self._seal = secrets.token_hex(16)
            return {"seal": sealed(self._seal)}
        return {"seal": self._seal} if kind is Kind.EXITED and self._seal else {}

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
            os.unlink(RESERVE_NAME, dir_fd=self._at)
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
        os.close(self._at)

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
        pid, role = read_file(str(folder / _OWNER_NAME), most_bytes=100).decode("ascii").split()
        return Owner(int(pid), role) if role in _ROLES else None
    except (OSError, ValueError):
        return None


def is_begun(folder: Path) -> bool:
    """Whether somebody has written a journal, or put something else in its place: it takes opening to tell what."""
    try:
        found = (folder / NAME).lstat()
    except OSError:
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_size > 0


def read(folder: Path) -> tuple[Record, ...]:
    """The records as they stand now, without taking the volume; none where there is no journal."""
    try:
        fd = open_file(str(folder / NAME), links=0)
    except OSError:
        return ()
    try:
        return parse(read_at(fd, 0, MOST_BYTES + 1)).records
    except OSError:
        return ()
    finally:
        os.close(fd)


def place() -> str:
    """Which pod this is: the same text in all of its containers, another one in another pod or after a boot."""
    try:
        network = Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        network = 0
    return f"{socket.gethostname()} {network} {boot_id()}"


def sealed(seal: str) -> str:
    """What a seal is known by before it is shown."""
    return hashlib.sha256(seal.encode()).hexdigest()


def _taken(folder: Path, at: int) -> int:
    """The journal's descriptor, locked. Raises Busy, or OSError.

    The directory is locked as well, for who removes the file must not come by another lock. Where directories have
    no locks (NFS), the file's is enough.
    """
    _lock(at, folder, needed=False)
    for _ in range(_TRIES):
        fd = _opened(at)
        try:
            _lock(fd, folder, needed=True)
            if _is_named(fd, at):
                return fd
        except (OSError, Busy):
            os.close(fd)
            raise
        os.close(fd)
    raise OSError(errno.EBUSY, "somebody puts another file in its place again and again")


def _lock(fd: int, folder: Path, *, needed: bool) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(folder, owner_of(folder)) from None
    except OSError:
        if needed:
            raise


def _opened(at: int) -> int:
    """The journal's descriptor. What it shares with another name is copied first: we would write into both."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(NAME, dir_fd=at, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            shared = open_file(NAME, at=at, links=0)
            try:
                replace_file(NAME, read_at(shared, 0, MOST_BYTES + 1), at=at)
            finally:
                os.close(shared)
    return open_own(NAME, os.O_RDWR | os.O_CREAT, at)


def _is_named(fd: int, at: int) -> bool:
    """Whether the journal's name still means this file."""
    try:
        named = os.stat(NAME, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def _no_use(folder: Path, error: OSError) -> str:
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"the journal {folder / NAME} cannot be opened: {what}: mend that, or choose another directory with --work"


def _kept(damage: str, fd: int, at: int) -> str:
    """Copy a damaged journal, and say so: the copy's name. There are three at most, the first two and the last."""
    names = set(os.listdir(at))
    name = next((one for one in _DAMAGED if one not in names), _DAMAGED[-1])
    log.error("the journal is damaged: its whole records are used, and a copy is kept", what=damage, copy=name)
    try:
        replace_file(name, read_at(fd, 0, MOST_BYTES), at=at)
    except OSError as error:
        log.warning("no copy of the damaged journal", why=error.strerror)
    return name


def _write_owner(text: bytes, at: int) -> None:
    try:
        replace_file(_OWNER_NAME, text, at=at)
    except IsADirectoryError:
        put_aside(_OWNER_NAME, at, "a directory")
        replace_file(_OWNER_NAME, text, at=at)


def _reserve(at: int) -> None:
    """Room for the last records of a job on a disk that the payload has filled."""
    with contextlib.suppress(OSError):
        fd = open_own(RESERVE_NAME, os.O_WRONLY | os.O_CREAT, at)
        try:
            if os.fstat(fd).st_size < _RESERVE_BYTES:
                os.posix_fallocate(fd, 0, _RESERVE_BYTES)
        finally:
            os.close(fd)
