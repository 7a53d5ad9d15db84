"""The local side of a transfer: a source that is a plain file, a target that appears only when it is right."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, Self

from pilot.staging.order import partial_path
from pilot.values.errors import Denied, Exists, FileMissing, NoSpace, StageError, TransferFailed

CHUNK = 1 << 20
_MODE = 0o644

_KINDS: dict[int | None, type[StageError]] = {
    errno.ENOENT: FileMissing,
    errno.ENOTDIR: FileMissing,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EFBIG: NoSpace,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EROFS: Denied,
}


def stage_error(error: OSError, path: str) -> StageError:
    """What an error of the local file system means for the transfer."""
    kind = _KINDS.get(error.errno, TransferFailed)
    return kind(f"{error.filename or path}: {error.strerror or error}")


@contextlib.contextmanager
def local_errors(path: str) -> Iterator[None]:
    """Raise an OSError of the local file system as the StageError that it means."""
    try:
        yield
    except OSError as error:
        raise stage_error(error, path) from error


def open_regular(path: str, identity: tuple[int, int] | None = None) -> BinaryIO:
    """A regular file, unbuffered, to read from; FileMissing or TransferFailed for anything else.

    The payload may have left a link to somebody else's file under an output's name, or a pipe that would
    block us for ever: neither is followed or waited for. ``identity`` is device and inode of the file that is
    meant, where somebody could put another in its place.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TransferFailed(f"{path}: it is a symbolic link, not a regular file") from error
        if error.errno == errno.ENXIO:  # a socket
            raise TransferFailed(f"{path}: it is not a regular file") from error
        raise stage_error(error, path) from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or identity not in (None, (found.st_dev, found.st_ino)):
        os.close(fd)
        why = "another file has its place by now" if stat.S_ISREG(found.st_mode) else "it is not a regular file"
        raise TransferFailed(f"{path}: {why}")
    return open(fd, "rb", buffering=0)  # noqa: PTH123 - a descriptor, not a path


def size_of(file: BinaryIO) -> int:
    """The size of an open file, in bytes."""
    return os.fstat(file.fileno()).st_size


def _check_replaceable(path: str) -> None:
    """Raise TransferFailed for a device, a pipe or a socket: nobody means to replace that by a file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise TransferFailed(f"{path}: what is there is no regular file: it is not overwritten")


class Partial:
    """A target under its temporary name; leaving the block without `settle` removes it.

    Something that is there already is found at the beginning, and again at the end (Exists), unless ``overwrite``:
    then the new file takes its place in one step, with its mode and, as far as we may, its owner.
    """

    def __init__(self, source: str, target: str, *, overwrite: bool) -> None:
        """``source``: the URL that it comes from."""
        self.target = target
        self._overwrite = overwrite
        self.path = partial_path(source, target)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Make the parents, and way for the temporary name."""
        with local_errors(self.path):
            if not self._overwrite and os.path.lexists(self.target):
                raise Exists(f"{self.target}: it is there already")
            _check_replaceable(self.target)
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)  # noqa: PTH103, PTH120
            remove(self.path)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close; remove what was not settled."""
        if self._file is not None:
            self._file.close()
        remove(self.path)

    def write(self, chunk: bytes) -> None:
        """Append; the file is made at the first call."""
        with local_errors(self.path):
            file = self._opened()
            view = memoryview(chunk)
            while view:  # a write to a nearly full disk may take a part only, and tell at the next
                view = view[file.write(view) :]

    def sync(self) -> None:
        """Bring the bytes to the disk, and drop them from memory: a second reading is then a real one."""
        with local_errors(self.path):
            fd = self._opened().fileno()
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def fileno(self) -> int:
        """The open file; it is made at the first call."""
        with local_errors(self.path):
            return self._opened().fileno()

    def settle(self) -> None:
        """Give a written file its name."""
        with local_errors(self.path):
            self._take_after(self._opened().fileno())
        self.settle_link()

    def settle_link(self) -> None:
        """Give the file its name, and leave its mode alone: a hard link's belongs to the other name too."""
        with local_errors(self.path):
            if self._overwrite or not self._linked():
                os.rename(self.path, self.target)  # noqa: PTH104

    def _take_after(self, fd: int) -> None:
        """Be as the old file was, if there is one: what may run it, and who may read it, does not change."""
        with contextlib.suppress(FileNotFoundError):
            old = os.lstat(self.target)
            if stat.S_ISREG(old.st_mode):
                with contextlib.suppress(OSError):
                    os.fchown(fd, old.st_uid, old.st_gid)
                os.fchmod(fd, old.st_mode & 0o777)
                return
        os.fchmod(fd, _MODE)

    def _linked(self) -> bool:
        """Give it its name by a link, which never takes another file's place; False where there are no links."""
        try:
            os.link(self.path, self.target, follow_symlinks=False)
        except FileExistsError:
            raise Exists(f"{self.target}: it is there already") from None
        except OSError:
            return False
        return True

    def _opened(self) -> BinaryIO:
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = open(os.open(self.path, flags, 0o600), "wb", buffering=0)  # noqa: PTH123, SIM115
        return self._file


def remove(path: str) -> None:
    """Unlink if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108
