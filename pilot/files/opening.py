"""Opening one file by its name, where a payload may have put something else in its place.

A symbolic link is not followed, a FIFO does not make us wait, and what comes back is a regular file with one name:
a hard link would be somebody else's file. Paths are walked one component at a time, each from the descriptor of the
one above it, so that no component can be a link (what openat2 does with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, on
any kernel and below any seccomp filter).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_BYTES = 1 << 20


class NotRegular(OSError):
    """What has the name is no regular file with one name; ``strerror`` says what it is."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(errno.EINVAL, what, name)


def open_file(name: str, flags: int = os.O_RDONLY, *, at: int | None = None, mode: int = 0o600, links: int = 1) -> int:
    """The descriptor of a regular file. Raises NotRegular, or another OSError.

    Args:
        name: one component below ``at``, or a path whose directories are not the payload's.
        flags: how to open it, as in `os.open`.
        at: an open directory.
        mode: of a file that ``flags`` make.
        links: how many names it may have; 0 for any number.
    """
    try:
        descriptor = os.open(name, flags | _SAFE, mode, dir_fd=at)
    except OSError as error:
        if what := _odd(name, at):
            raise NotRegular(what, name) from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (links and found.st_nlink > links):
        os.close(descriptor)
        raise NotRegular(kind_of(found) or "a hard link: it has another name elsewhere", name)
    return descriptor


def make_file(name: str, flags: int = os.O_WRONLY, *, at: int | None = None, mode: int = 0o600) -> int:
    """A new file under this name, in place of whatever has it. Raises OSError: a directory is not replaced."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=at)
    return os.open(name, flags | _SAFE | os.O_CREAT | os.O_EXCL, mode, dir_fd=at)


def read_file(name: str, *, at: int | None = None, most_bytes: int = _MOST_BYTES) -> bytes:
    """The content of a regular file. Raises NotRegular, or another OSError; one that is larger is an error, too."""
    descriptor = open_file(name, at=at)
    try:
        content = read_at(descriptor, 0, most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", name)
    return content


def replace_file(name: str, content: bytes, *, at: int | None = None, mode: int = 0o600) -> None:
    """Write a file, whole or not at all, in place of what has this name but a directory. Raises OSError."""
    part = f"{name}.{secrets.token_hex(4)}"
    descriptor = os.open(part, os.O_WRONLY | _SAFE | os.O_CREAT | os.O_EXCL, mode, dir_fd=at)
    try:
        try:
            write_all(descriptor, content)
        finally:
            os.close(descriptor)
        os.rename(part, name, src_dir_fd=at, dst_dir_fd=at)
    except OSError:
        with suppress(OSError):
            os.unlink(part, dir_fd=at)
        raise


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def read_at(descriptor: int, start: int, most_bytes: int) -> bytes:
    """So many bytes from ``start`` on, less at the end of the file only."""
    pieces = []
    while most_bytes > 0 and (piece := os.pread(descriptor, min(most_bytes, _MOST_BYTES), start)):
        pieces.append(piece)
        start, most_bytes = start + len(piece), most_bytes - len(piece)
    return b"".join(pieces)


def open_folder(name: str, *, at: int | None = None) -> int:
    """The descriptor of a directory, for one component below ``at``. Raises OSError."""
    return os.open(name, _FOLDER, dir_fd=at)


def permit(name: str, at: int | None = None) -> None:
    """Give ourselves all rights to a directory, if they are ours to give; its own, not those of what a link names.

    Raises OSError where there is no such directory.
    """
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        mode = os.fstat(handle).st_mode
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IMODE(mode) | stat.S_IRWXU)  # noqa: PTH101
    except PermissionError:
        pass  # it is somebody else's: what cannot be done there will be told
    finally:
        os.close(handle)


def open_beneath(top: str, path: str) -> int:
    """The descriptor of a directory below ``top``, whose own path is not the payload's. Raises OSError."""
    above = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with folder_of(path, at=above) as (at, name):
            return open_folder(name, at=at)
    finally:
        os.close(above)


@contextmanager
def folder_of(path: str, *, at: int) -> Iterator[tuple[int, str]]:
    """The directory of a relative path, open while the block lasts, and the last component ("." for ``at`` itself).

    Raises OSError for a path that leads through a link, through "..", or to nowhere.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise OSError(errno.EXDEV, "not below the directory", path)
    descriptor = os.dup(at)
    try:
        for part in parts[:-1]:
            below = open_folder(part, at=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor, parts[-1] if parts else "."
    finally:
        os.close(descriptor)


def kind_of(found: os.stat_result) -> str:
    """What a thing is that is not a regular file, for messages; "" for a regular file."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "of an unknown kind")


def _odd(name: str, at: int | None) -> str:
    """What has the name, if that is why it could not be opened."""
    try:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
    except (OSError, ValueError):
        return ""
    return kind_of(found)


_KINDS = {
    stat.S_IFREG: "",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
