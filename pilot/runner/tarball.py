"""The log tarball: pilot log, payload stdout and stderr, job report, usage, and what is saved of a stopped payload.

Nothing in it is opened by a name that the payload could have given to another file, and no secret that the pilot
knows is in it.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

from pilot.files.folder import reader
from pilot.files.opening import folder_of, open_file
from pilot.runner.area import LOG, POINTS, REPORT, STDERR, STDOUT, USAGE, JobArea
from pilot.values.events import Redactor

MOST_BYTES = 100 << 20
"""A file above this is cut in its middle: the beginning and the end tell what happened."""

_PIECE = 1 << 20


def pack(
    area: JobArea,
    target: BinaryIO,
    folder: str,
    redactor: Redactor,
    report: bytes = b"",
    saved: Sequence[str] = (),
    most_bytes: int = MOST_BYTES,
) -> None:
    """Write the gzipped tarball to ``target``; its members stand in ``folder``. OSError if that cannot be done.

    ``report`` is the content of the job report, ``saved`` are files of the work directory, whole and last: below
    ``folder/saved``. The others are cut to ``most_bytes``; less than `MOST_BYTES` means haste.
    """
    level = 1 if saved or most_bytes < MOST_BYTES else 6
    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=level) as tar:
        for name, file in ((LOG, area.log), (STDOUT, area.stdout), (STDERR, area.stderr), (USAGE, area.usage)):
            _add(tar, os.dup(file.fileno()), f"{folder}/{name}", redactor, most_bytes)
        _add_bytes(tar, report, f"{folder}/{REPORT}", redactor)
        for found in area.evaluations():
            _add(tar, open_file(found.name, at=found.at), f"{folder}/{POINTS}/{found.path}", redactor, most_bytes)
        for path in saved:
            with folder_of(path, at=area.work_folder.fd) as (at, name):
                _add(tar, open_file(name, at=at), f"{folder}/saved/{path}", redactor, None)


def size_bytes(area: JobArea, saved: Sequence[str], most_bytes: int = MOST_BYTES) -> int:
    """How large the tarball can become."""
    sizes = [min(file.size(), most_bytes) for file in (area.log, area.stdout, area.stderr, area.usage)]
    sizes += [min(found.status.st_size, most_bytes) for found in area.evaluations()]
    for path in saved:
        with suppress(OSError), folder_of(path, at=area.work_folder.fd) as (at, name):
            sizes.append(os.stat(name, dir_fd=at, follow_symlinks=False).st_size)
    return sum(sizes)


def _add(tar: tarfile.TarFile, descriptor: int, name: str, redactor: Redactor, most_bytes: int | None) -> None:
    """One member of a fixed size: the pilot's log still grows while it is packed. None: whole, whatever its size."""
    with reader(descriptor) as stream:
        size = os.fstat(descriptor).st_size
        info = _member(name, size, os.fstat(descriptor).st_mtime)
        stream.seek(0)  # it is shared with whoever wrote it, and only we still read
        pieces = redactor.pieces(_first(stream, size))
        if most_bytes is not None and size > most_bytes:
            half = most_bytes // 2
            note = f"\n\n[{size - 2 * half} bytes left out here]\n\n".encode()
            info.size = 2 * half + len(note)
            pieces = _ends(stream, size, half, note, redactor)
        tar.addfile(info, _Joined(pieces))  # type: ignore[arg-type]  # of a file it only wants `read`


def _add_bytes(tar: tarfile.TarFile, content: bytes, name: str, redactor: Redactor) -> None:
    stream = redactor.stream(io.BytesIO(content))
    tar.addfile(_member(name, len(content), time.time()), stream)


def _member(name: str, size: int, changed: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(changed), 0o644
    return info


def _first(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """So many bytes of a file that may grow; zeros where it has become shorter."""
    while size > 0:
        piece = stream.read(min(_PIECE, size)) or bytes(min(_PIECE, size))
        size -= len(piece)
        yield piece


def _ends(stream: BinaryIO, size: int, half: int, note: bytes, redactor: Redactor) -> Iterator[bytes]:
    """Beginning, note and end, in pieces: a log never stands in our memory. A secret may be cut, too."""
    yield from redactor.pieces(_first(stream, half))
    yield note
    stream.seek(size - half)
    yield from redactor.pieces(_first(stream, half))


class _Joined:
    """Pieces as one stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, count: int, /) -> bytes:
        """So many bytes; less at the end only."""
        while len(self._rest) < count and (piece := next(self._pieces, b"")):
            self._rest += piece
        given, self._rest = self._rest[:count], self._rest[count:]
        return given
