"""The log tarball: pilot log, payload stdout and stderr, job report, usage, and what is saved of a stopped payload."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pilot.runner.area import JobArea

MOST_BYTES = 100 << 20
"""A file above this is cut in its middle: the beginning and the end tell what happened."""

_PIECE = 1 << 20


def pack(area: JobArea, target: Path, folder: str, saved: Sequence[Path] = (), most_bytes: int = MOST_BYTES) -> None:
    """Write the gzipped tarball ``target``; its members stand in ``folder``. OSError if that cannot be done.

    ``saved`` are files of the work directory, whole and last: below ``folder/saved``. The others are cut to
    ``most_bytes``; less than `MOST_BYTES` means haste.
    """
    level = 1 if saved or most_bytes < MOST_BYTES else 6
    with tarfile.open(target, "w:gz", compresslevel=level) as tar:
        for file in (area.pilot_log, area.stdout, area.stderr, area.report, area.usage):
            if file.is_file():
                _add(tar, file, f"{folder}/{file.name}", most_bytes)
        for file in area.evaluations():
            _add(tar, file, f"{folder}/{file.relative_to(area.root)}", most_bytes)
        for file in saved:
            _add(tar, file, f"{folder}/saved/{file.relative_to(area.work)}", None)


def _add(tar: tarfile.TarFile, file: Path, name: str, most_bytes: int | None) -> None:
    """One member of a fixed size: the pilot's log still grows while it is packed. None: whole, whatever its size."""
    with file.open("rb") as stream:
        info = tar.gettarinfo(arcname=name, fileobj=stream)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        if most_bytes is None or info.size <= most_bytes:
            tar.addfile(info, stream)
            return
        half = most_bytes // 2
        note = f"\n\n[{info.size - 2 * half} bytes left out here]\n\n".encode()
        source = _Joined(_ends(stream, info.size, half, note))
        info.size = 2 * half + len(note)
        tar.addfile(info, source)  # type: ignore[arg-type]  # of a file it only wants `read`


def _ends(stream: BinaryIO, size: int, half: int, note: bytes) -> Iterator[bytes]:
    """Beginning, note and end, in pieces: a log never stands in our memory."""
    for start in (0, size - half):
        stream.seek(start)
        left = half
        while left and (piece := stream.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece
        if start == 0:
            yield note


class _Joined:
    """Pieces as one stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, count: int) -> bytes:
        """So many bytes; less at the end only."""
        while len(self._rest) < count and (piece := next(self._pieces, b"")):
            self._rest += piece
        given, self._rest = self._rest[:count], self._rest[count:]
        return given
