"""Sync files: in a directory that a payload can write to, so that whatever it puts there is not followed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from pilot.files.kept import KeptFile
from pilot.files.opening import open_file

_MOST_BYTES = 4096
_MOST_COPIED = 64 << 20
_PIECE = 1 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a pipe does not make us wait
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read(file: Path, most_bytes: int = _MOST_BYTES, at: int = 0) -> bytes | None:
    """So much of a plain file, from ``at`` on; None where there is none, and for a link."""
    try:
        descriptor = os.open(file, _READ)
    except OSError:
        return None
    try:
        return os.pread(descriptor, most_bytes, at) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def changed(file: Path) -> int:
    """When it was changed, in ns of its own clock; 0 where there is none."""
    try:
        return os.lstat(file).st_mtime_ns
    except OSError:
        return 0


def write(file: Path, content: bytes) -> None:
    """Make it, whole at once, for another user to read. Raises OSError."""
    temporary = file.with_name(f"{file.name}.new")
    remove(temporary)
    with os.fdopen(os.open(temporary, _MAKE, 0o644), "wb") as stream:
        os.fchmod(stream.fileno(), 0o644)  # whatever our umask is
        stream.write(content)
    temporary.replace(file)


def remove(file: Path) -> None:
    """Remove it, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        file.unlink()


def bring(source: Path, target: KeptFile) -> None:
    """Move the content of a plain file, of much the last 64 MiB. Raises OSError."""
    descriptor = open_file(str(source))
    try:
        size = os.fstat(descriptor).st_size
        at = max(0, size - _MOST_COPIED)
        while at < size and (piece := os.pread(descriptor, _PIECE, at)):
            target.append(piece)
            at += len(piece)
    finally:
        os.close(descriptor)
    remove(source)
