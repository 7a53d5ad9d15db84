"""Metrics of single points: outputs that the job's definition names once, and that exist once for each point.

A declared output ``lfn`` stands for ``lfn_0``, ``lfn_1``...: the server accepts digits behind it (hpo-contract.md 4.1).
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Iterable
from dataclasses import replace

from pilot.files import folder as files
from pilot.files.opening import make_file, open_file, open_folder
from pilot.runner.area import JobArea
from pilot.runner.hpo.book import Lease
from pilot.runner.hpo.files import Folder
from pilot.runner.journal import Kind
from pilot.runner.lastfile import vias_of
from pilot.runner.past import Destinations, destinations_json
from pilot.runner.pod import Pod
from pilot.staging.planning.ways import ways_out
from pilot.values.deadline import Deadline
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.job import Job, OutputFile
from pilot.values.names import Lfn

log = events(__name__)

_LOOK_S = 60.0


class Packer:
    """Packs the metrics of each point; where they will go is in the journal at once, for a next life."""

    def __init__(self, job: Job, asked: PointWork, pod: Pod, area: JobArea) -> None:
        self._job = job
        self._asked = asked
        self._pod = pod
        self._area = area
        self._declared = _declared(job, asked.metrics[0]) if asked.metrics is not None else None

    def pack(self, folder: Folder, lease: Lease) -> Lfn | None:
        """The output that was made of what an evaluation has left; None where that is nothing."""
        if self._declared is None or self._asked.metrics is None:
            return None
        lfn = Lfn(f"{self._declared.lfn}_{lease.number}")
        if not self._packed(folder, self._asked.metrics[1], lease.id, lfn):
            return None
        ways = ways_out(replace(self._declared, lfn=lfn), self._job, self._pod.site, vias_of(self._pod))
        self._pod.journal.write(Kind.STORING, files=[], destinations=destinations_json({lfn: tuple(ways)}))
        return lfn

    def _packed(self, folder: Folder, name: Lfn, point: str, lfn: Lfn) -> bool:
        """Write the output: one tarball, in which the point's id stands behind the name; whether there was anything."""
        part = f"{lfn}.part"
        try:
            with folder.open_work() as work:
                if stat.S_ISLNK(work.status(name).st_mode):
                    return False
                with (
                    os.fdopen(make_file(part, at=self._area.own.fd), "wb") as target,
                    tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as tar,
                ):
                    _add_all(tar, work.fd, name, f"{name}_{point}")
            os.rename(part, lfn, src_dir_fd=self._area.own.fd, dst_dir_fd=self._area.work_folder.fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("the metrics of a point could not be packed", point=point, why=str(error))
            return False
        return True


def _add_all(tar: tarfile.TarFile, at: int, name: str, arcname: str) -> None:
    """A regular file, or all regular files and links below a directory. Raises OSError."""
    if stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        with files.Folder(open_folder(name, at=at)) as top:
            for found in top.walk(Deadline.after(_LOOK_S)):
                _add(tar, found.at, found.name, f"{arcname}/{found.path}", found.status)
    else:
        _add(tar, at, name, arcname, os.stat(name, dir_fd=at, follow_symlinks=False))


def _add(tar: tarfile.TarFile, at: int, name: str, arcname: str, status: os.stat_result) -> None:
    member = tarfile.TarInfo(arcname)
    member.mode, member.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=at)
    elif stat.S_ISREG(status.st_mode):
        with files.reader(open_file(name, at=at)) as stream:
            member.size = os.fstat(stream.fileno()).st_size
            tar.addfile(member, stream)
        return
    else:
        return
    tar.addfile(member)


def with_metrics(job: Job, destinations: Destinations, names: Iterable[Lfn], pod: Pod) -> tuple[Job, Destinations]:
    """The job as if each of these outputs had been declared, and where all of them go."""
    named = list(names)
    declared = _declared(job, job.hpo.metrics[0]) if job.hpo is not None and job.hpo.metrics is not None else None
    if declared is None:
        return job, destinations
    made = [replace(declared, lfn=name, guid=None, may_be_missing=False) for name in named]
    job = replace(job, outputs=(*(file for file in job.outputs if file is not declared), *made))
    new = [file for file in made if file.lfn not in destinations]
    return job, {**destinations, **{file.lfn: tuple(ways_out(file, job, pod.site, vias_of(pod))) for file in new}}


def recorded(job: Job, destinations: Destinations) -> list[Lfn]:
    """The metrics that an earlier life has packed, as its journal tells."""
    if job.hpo is None or job.hpo.metrics is None:
        return []
    pattern = re.compile(re.escape(job.hpo.metrics[0]) + r"_\d+")
    return [lfn for lfn in destinations if pattern.fullmatch(lfn)]


def _declared(job: Job, lfn: Lfn) -> OutputFile | None:
    return next((file for file in job.outputs if file.lfn == lfn), None)
