"""The log tarball: pilot log, payload stdout and stderr, job report."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from pilot.runner.area import JobArea

MOST_BYTES = 100 << 20
"""A file above this is cut in its middle: the beginning and the end tell what happened."""


def pack(area: JobArea, target: Path, folder: str) -> None:
    """Write the gzipped tarball ``target``; its members stand in ``folder``. OSError if that cannot be done."""
    with tarfile.open(target, "w:gz", compresslevel=6) as tar:
        for file in (area.pilot_log, area.stdout, area.stderr, area.report):
            if file.is_file():
                _add(tar, file, f"{folder}/{file.name}")


def _add(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """One member of a fixed size: the pilot's log still grows while it is packed."""
    with file.open("rb") as stream:
        info = tar.gettarinfo(arcname=name, fileobj=stream)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        if info.size <= MOST_BYTES:
            tar.addfile(info, stream)
            return
        half = MOST_BYTES // 2
        note = f"\n\n[{info.size - 2 * half} bytes left out here]\n\n".encode()
        head = stream.read(half)
        stream.seek(info.size - half)
        content = head + note + stream.read(half)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
