"""Sync files: in a directory that a payload can write to, so that whatever it puts there is not followed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

_MOST_BYTES = 4096
_MOST_COPIED = 64 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe does not make us wait
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read(file: Path, most_bytes: int = _MOST_BYTES, at: int = 0, *, follow: bool = False) -> bytes | None:
    """So much of a plain file, from ``at`` on; None where there is none. A link is one only to ``follow``."""
    try:
        descriptor = os.open(file, _READ | (0 if follow else os.O_NOFOLLOW))
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


def bring(source: Path, target: Path) -> None:
    """Move a plain file; from one volume to another its last 64 MiB are copied. Raises OSError."""
    if not stat.S_ISREG(os.lstat(source).st_mode):
        raise OSError(errno.EINVAL, "not a plain file")
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_end(source, target)
    if not stat.S_ISREG(os.lstat(target).st_mode):  # changed since the first look
        target.unlink()


def _copy_end(source: Path, target: Path) -> None:
    with os.fdopen(os.open(source, _READ), "rb") as stream, target.open("wb") as copy:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _MOST_COPIED))
        shutil.copyfileobj(stream, copy)
