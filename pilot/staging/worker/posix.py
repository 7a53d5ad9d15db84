"""The local disk, and shared file systems: as a source or a target of other protocols, and from file to file."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

from pilot.staging.order import Around, Done, Entry, Order, Report, Side, path_of, plain
from pilot.staging.worker.checksum import Digest
from pilot.staging.worker.partial import CHUNK, Partial, local_errors, open_regular, remove, size_of
from pilot.staging.worker.tool import Content, Said, Source, Stat
from pilot.values.errors import Mismatch, TransferFailed

_AT_ONCE = 8 << 20


def stat(side: Side, _around: Around, kind: str | None, _size: int | None = None) -> Stat:
    """Size, and checksum by reading the file."""
    with open_regular(path_of(side.url), side.identity) as file:
        if kind is None:
            return Stat(size_of(file), None)
        digest = _read(file, Digest(md5=kind == "md5"))
    return Stat(digest.size, digest.md5 if kind == "md5" else digest.adler32)


@contextlib.contextmanager
def reading(side: Side, _around: Around, _report: Report, *, compared: bool) -> Iterator[Source]:  # noqa: ARG001
    """A regular file as long as it is now; Mismatch if it shrinks meanwhile."""
    path = path_of(side.url)
    with open_regular(path, side.identity) as file:
        yield Source(size_of(file), _Chunks(file, path, size_of(file)), again=True)


@contextlib.contextmanager
def writing(
    side: Side,
    content: Content,
    _around: Around,
    *,
    overwrite: bool,
    old: Stat | None = None,  # noqa: ARG001 - it keeps its place until the new one takes it
) -> Iterator[Said]:
    """A file under a temporary name beside its own, which it gets when the block ends well."""
    with Partial(content.url, path_of(side.url), overwrite=overwrite) as part:
        part.write(b"")  # an empty file has no chunk that would make it
        for chunk in content:
            part.write(chunk)
        yield Said()
        part.settle()


def delete(side: Side, _around: Around) -> None:
    """Remove a stored file, if it is there."""
    with local_errors(path_of(side.url)):
        remove(path_of(side.url))


def renames(_side: Side, _new: str, _around: Around) -> bool:
    """Every file system does."""
    return True


def rename(side: Side, new: str, _around: Around) -> None:
    """Give a file another's name and place."""
    with local_errors(path_of(new)):
        os.replace(path_of(side.url), path_of(new))  # noqa: PTH105 - pathlib costs 7 ms


def entries(side: Side, _around: Around) -> Iterator[Entry]:
    """Regular files below a directory, in the order of their names. Raises FileMissing, TransferFailed.

    A link or a device is not a file that we could copy, and is refused rather than left out without a word.
    """
    top = path_of(side.url)
    with local_errors(top):
        yield from _walk(top, "")


def copy(order: Order, report: Report) -> Done:
    """From file to file: by a hard link where that is allowed, safe and possible, else by the kernel's own copy."""
    source, target = path_of(order.source.url), path_of(order.destination.url)
    with Partial(order.source.url, target, overwrite=order.overwrite) as part:
        if order.link and order.source.identity is None and _linked(source, part.path):
            with open_regular(part.path) as file:
                done = _read(file, Digest.of(order), report).check(order, source)
            part.settle_link()
            return done
        with open_regular(source, order.source.identity) as file:
            size = _copied(file, part, order, report)
        if not order.link:  # an output: what is read again comes from the disk
            report.verifying(size)
            part.sync()
        with open_regular(part.path) as file:
            digest = _read(file, Digest.of(order))
        done = digest.check(order, source)
        part.settle()
    return done


class _Chunks:
    """The bytes of an open file, from its beginning each time."""

    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        with local_errors(self._path):
            self._file.seek(0)
        while left:  # never more than were announced, even if the file grows
            with local_errors(self._path):
                chunk = self._file.read(min(CHUNK, left))
            if not chunk:
                raise Mismatch(f"{self._path}: it lost {left} bytes while it was sent")
            left -= len(chunk)
            yield chunk


def _walk(folder: str, prefix: str) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        inside = sorted(found, key=lambda entry: entry.name)
    for entry in inside:
        path = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, path + "/")
        elif entry.is_file(follow_symlinks=False):
            yield Entry(path, entry.stat(follow_symlinks=False).st_size)
        else:
            raise TransferFailed(f"{plain(entry.path)}: neither a regular file nor a directory")


def _linked(source: str, path: str) -> bool:
    """Whether a link could be made; the kernel refuses those to other devices and to others' files.

    A file that we could write is not linked: a payload that changes its input would change the original.
    """
    if os.access(source, os.W_OK):
        return False
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError:
        return False
    return True


def _copied(file: BinaryIO, part: Partial, order: Order, report: Report) -> int:
    """Copy inside the kernel, which may just share the blocks; the size."""
    if order.size not in (None, size_of(file)):
        raise Mismatch(f"{plain(order.source.url)}: it has {size_of(file)} bytes, the catalogue says {order.size}")
    size = 0
    part.write(b"")
    with local_errors(order.source.url):
        while count := _passed(file, part):
            size += count
            if order.size is not None and size > order.size:  # at once: it may grow for ever
                raise Mismatch(f"{plain(order.source.url)}: it has grown beyond the {order.size} bytes that were told")
            report.moved(size)
    return size


def _passed(file: BinaryIO, part: Partial) -> int:
    try:
        return os.copy_file_range(file.fileno(), part.fileno(), _AT_ONCE)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    chunk = file.read(CHUNK)
    part.write(chunk)
    return len(chunk)


def _read(file: BinaryIO, digest: Digest, report: Report | None = None) -> Digest:
    with local_errors(file.name if isinstance(file.name, str) else "the copy"):
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if report is not None:
                report.moved(digest.size)
    return digest
