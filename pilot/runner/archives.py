"""Archives that a job's ZIP_MAP asks for: zip files that the pilot makes of the payload's outputs.

Stored, not compressed: what physics writes is compressed already. The same files give the same archive, so a
second life may make it again.
"""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable, Collection
from typing import BinaryIO

from pilot.files.folder import reader
from pilot.files.opening import make_file
from pilot.runner.area import JobArea
from pilot.runner.left import LeftFiles
from pilot.values.errors import NoSpace, OutputMissing
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.names import Lfn

log = events(__name__)

_PIECE = 1 << 20
_PART = "archive.part"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def make_archives(job: Job, area: JobArea, left: LeftFiles, done: Collection[Lfn], check: Callable[[], None]) -> None:
    """Make the archives that the payload has not left itself, and that are not ``done``.

    ``check`` is called now and then, and may raise. Raises OutputMissing naming the first file that is not there.
    """
    for archive, members in job.zips.items():
        if archive in done or _is_there(area, archive):
            continue
        try:
            _make(area, left, archive, members, check)
        except OutputMissing as error:
            if not _may_be_missing(job, archive):
                raise
            log.warning("an archive that may be missing is not made", file=archive, why=str(error))
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"{archive}: {error.strerror}") from error
            raise


def _is_there(area: JobArea, name: Lfn) -> bool:
    try:
        area.work_folder.status(name)
    except FileNotFoundError:
        return False
    return True


def _may_be_missing(job: Job, archive: Lfn) -> bool:
    return any(file.lfn == archive and file.may_be_missing for file in job.outputs)


def _make(area: JobArea, left: LeftFiles, archive: Lfn, members: Collection[Lfn], check: Callable[[], None]) -> None:
    """Whole or not at all, and nothing that the payload could have put in its place beforehand."""
    with area.fresh("archive") as folder:
        part = os.fdopen(make_file(_PART, at=folder.fd), "wb")
        with part as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
            for member in members:
                with _opened(archive, member, left) as source:
                    _add(packed, member, source, check)
        os.rename(_PART, archive, src_dir_fd=folder.fd, dst_dir_fd=area.work_folder.fd)
    log.info("archive made", file=archive, members=len(members))


def _opened(archive: Lfn, member: Lfn, left: LeftFiles) -> BinaryIO:
    """A regular file, not something that points out of the work directory."""
    try:
        return reader(left.open(member))
    except OutputMissing as error:
        raise OutputMissing(f"the payload left no {member} for the archive {archive}: {error}") from None


def _add(packed: zipfile.ZipFile, name: Lfn, source: BinaryIO, check: Callable[[], None]) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    with packed.open(info, "w", force_zip64=True) as member:
        while piece := source.read(_PIECE):
            check()
            member.write(piece)
