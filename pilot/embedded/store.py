"""The file store: files under one directory, written whole or not at all, with their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pilot.embedded.database import Database

CHUNK_BYTES = 2**20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS digests (
    path TEXT NOT NULL, kind TEXT NOT NULL, identity TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (path, kind)
);
"""


class StoreError(Exception):
    """A request that the store refuses: ``status`` is the HTTP status, the text says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Source(Protocol):
    """Where the bytes of an upload come from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored file, open for reading: whoever gets it closes ``descriptor``."""

    path: str
    descriptor: int
    size: int
    identity: str


class Store:
    """Files below ``root``; ``incoming`` is on the same file system and holds what is not complete."""

    def __init__(self, root: Path, incoming: Path, digests: Path) -> None:
        shutil.rmtree(incoming, ignore_errors=True)
        for directory in (root, incoming):
            directory.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._incoming = incoming
        self._digests = Database(digests, _SCHEMA, durable=False)

    def close(self) -> None:
        """Close the file of checksums."""
        self._digests.close()

    def put(self, path: str, source: Source, size: int) -> bool:
        """Store exactly ``size`` bytes under ``path``; True if there was no such file before.

        Raises StoreError, and leaves nothing, if fewer bytes come or the path cannot be used.
        """
        parts = split(path)
        temporary = self._incoming / secrets.token_hex(16)
        try:
            adler32 = _receive(temporary, source, size)
            with _refusals(), self._directory(parts[:-1], make=True) as parent:
                new = not _exists(parts[-1], parent)
                os.rename(temporary, parts[-1], dst_dir_fd=parent)
                os.fsync(parent)
        finally:
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(StoreError), self.open(path) as entry:
            self._remember(entry, "adler32", adler32)
        return new

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Entry]:
        """A stored file for the time of a with block; StoreError 404 if there is none."""
        entry = self.opened(path)
        try:
            yield entry
        finally:
            os.close(entry.descriptor)

    def opened(self, path: str) -> Entry:
        """A stored file; the caller closes its descriptor. StoreError 404 if there is none."""
        parts = split(path)
        with _refusals(), self._directory(parts[:-1], make=False) as parent:
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise StoreError(404, "not a file")
        identity = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
        return Entry("/".join(parts), descriptor, status.st_size, identity)

    def delete(self, path: str) -> None:
        """Remove a file; StoreError 404 if there is none."""
        parts = split(path)
        with _refusals(), self._directory(parts[:-1], make=False) as parent:
            os.unlink(parts[-1], dir_fd=parent)
            os.fsync(parent)

    def digest(self, entry: Entry, kind: str) -> str:
        """The checksum of a file in hex; ``kind`` is adler32 or md5. Kept until the file changes."""
        rows = self._digests.rows(
            "SELECT value FROM digests WHERE path=? AND kind=? AND identity=?", (entry.path, kind, entry.identity)
        )
        if rows:
            return str(rows[0][0])
        value = _KINDS[kind](read(entry, 0, entry.size))
        self._remember(entry, kind, value)
        return value

    def _remember(self, entry: Entry, kind: str, value: str) -> None:
        with self._digests.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (entry.path, kind, entry.identity, value)
            )

    @contextlib.contextmanager
    def _directory(self, parts: list[str], *, make: bool) -> Iterator[int]:
        """A descriptor of a directory below the root, reached without following a link."""
        descriptor = os.open(self._root, _DIRECTORY)
        try:
            for part in parts:
                inner = _enter(descriptor, part, make=make)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _enter(parent: int, name: str, *, make: bool) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
            os.fsync(parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _exists(name: str, parent: int) -> bool:
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise StoreError(409, "not a file")
    return True


def split(path: str) -> list[str]:
    """The parts of a path below the root; StoreError 400 for one that is not plainly below it."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "%2f" in part.lower() for part in parts):
        raise StoreError(400, "a path has no empty, . or .. parts, and no encoded slash")
    try:
        encoded = [part.encode() for part in parts]
    except UnicodeEncodeError:
        raise StoreError(400, "a path is UTF-8") from None
    if any(len(part) > _NAME_BYTES for part in encoded) or any(ord(char) < ord(" ") for char in path):
        raise StoreError(400, "a name has at most 255 bytes, none of them a control character")
    return parts


_NAME_BYTES = 255
_STATUS = {
    errno.ENOENT: (404, "no such file"),
    errno.ELOOP: (403, "a link is not followed"),
    errno.ENOTDIR: (409, "a part of the path is not a directory"),
    errno.EISDIR: (409, "a directory"),
    errno.ENXIO: (404, "not a file"),
    errno.ENOSPC: (507, "no space left"),
    errno.EDQUOT: (507, "quota exceeded"),
    errno.ENAMETOOLONG: (400, "the path is too long"),
}


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Tell an error of the file system as a StoreError."""
    try:
        yield
    except OSError as error:
        status, reason = _STATUS.get(error.errno or 0, (500, error.strerror or "cannot"))
        raise StoreError(status, reason) from None


def _receive(target: Path, source: Source, size: int) -> str:
    """Write ``size`` bytes to a new file and to the disk; returns their adler32."""
    adler32, left = 1, size
    with _refusals(), target.open("xb") as file:
        while left:
            chunk = _read(source, min(left, CHUNK_BYTES))
            if not chunk:
                raise StoreError(400, f"the body ended {left} bytes before its Content-Length")
            adler32 = zlib.adler32(chunk, adler32)
            file.write(chunk)
            left -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return f"{adler32:08x}"


def _read(source: Source, size: int) -> bytes:
    """The next bytes of an upload; none if its connection broke."""
    try:
        return source.read(size)
    except OSError:
        return b""


def read(entry: Entry, start: int, length: int) -> Iterator[bytes]:
    """The bytes of a part of a file, piece by piece."""
    end = start + length
    while start < end:
        chunk = os.pread(entry.descriptor, min(CHUNK_BYTES, end - start), start)
        if not chunk:
            return
        start += len(chunk)
        yield chunk


def _adler32(chunks: Iterator[bytes]) -> str:
    value = 1
    for chunk in chunks:
        value = zlib.adler32(chunk, value)
    return f"{value:08x}"


def _md5(chunks: Iterator[bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


_KINDS: dict[str, Callable[[Iterator[bytes]], str]] = {"adler32": _adler32, "md5": _md5}
KINDS = tuple(_KINDS)
"""The checksums that can be asked for."""
