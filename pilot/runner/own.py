"""Our own files on the volume, where a payload may have put something else in their place.

What is no regular file with one name is put aside, as NAME.odd, with one line; then we have a file again. There is one
such place for each name, so that nobody can fill the volume with them.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from pilot.files.opening import NotRegular, open_file
from pilot.files.trees import remove
from pilot.values.deadline import Deadline
from pilot.values.events import events

log = events(__name__)

_ASIDE = ".odd"
_CLEAR_S = 5.0
_CLOSED = (errno.EACCES, errno.EPERM)


def open_own(name: str, flags: int, at: int) -> int:
    """The descriptor of a file of ours in the directory ``at``. Raises OSError for what cannot be put aside."""
    try:
        return open_file(name, flags, at=at)
    except OSError as error:
        if not isinstance(error, NotRegular) and error.errno not in _CLOSED:
            raise
        if not isinstance(error, NotRegular) and _permitted(name, at):
            return open_file(name, flags, at=at)
        put_aside(name, at, error.strerror or str(error))
    return open_file(name, flags, at=at)


def put_aside(name: str, at: int, why: str) -> None:
    """Take what has this name out of the way. Raises OSError."""
    aside = name + _ASIDE
    left = remove(aside, Deadline.after(_CLEAR_S), at=at)
    if left:
        raise OSError(errno.ENOTEMPTY, f"{name} is {why}, and cannot be put aside as {aside}: remove both")
    os.rename(name, aside, src_dir_fd=at, dst_dir_fd=at)
    log.warning("a file of ours was something else: put aside", name=name, what=why, as_name=aside)


def _permitted(name: str, at: int) -> bool:
    """Give ourselves the rights to a file that is ours; whether that was all it needed."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return False
        with suppress(OSError):
            os.chmod(f"/proc/self/fd/{handle}", 0o600)  # noqa: PTH101 - of the descriptor, and no link
            return True
        return False
    finally:
        os.close(handle)
