"""The log tarball: pilot log, payload stdout and stderr, job report, and what is saved of a stopped payload."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from pilot.runner.area import JobArea

MOST_BYTES = 100 << 20
"""A file above this is cut in its middle: the beginning and the end tell what happened."""


def pack(area: JobArea, target: Path, folder: str, saved: Sequence[Path] = ()) -> None:
    """Write the gzipped tarball ``target``; its members stand in ``folder``. OSError if that cannot be done.

    ``saved`` are files of the work directory, whole and last: below ``folder/saved``.
    """
    with tarfile.open(target, "w:gz", compresslevel=1 if saved else 6) as tar:
        for file in (area.pilot_log, area.stdout, area.stderr, area.report):
            if file.is_file():
                _add(tar, file, f"{folder}/{file.name}", MOST_BYTES)
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
        head = stream.read(half)
        stream.seek(info.size - half)
        content = head + note + stream.read(half)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
