"""Metrics of single points: outputs that the job's definition names once, and that exist once for each point.

A declared output ``lfn`` stands for ``lfn_0``, ``lfn_1``...: the server accepts digits behind it (hpo-contract.md 4.1).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pilot.runner.area import JobArea
from pilot.runner.hpo.book import Lease
from pilot.runner.journal import Kind
from pilot.runner.lastfile import vias_of
from pilot.runner.past import Destinations, destinations_json
from pilot.runner.pod import Pod
from pilot.staging.planning.ways import ways_out
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.job import Job, OutputFile
from pilot.values.names import Lfn

log = events(__name__)


class Packer:
    """Packs the metrics of each point; where they will go is in the journal at once, for a next life."""

    def __init__(self, job: Job, asked: PointWork, pod: Pod, area: JobArea) -> None:
        self._job = job
        self._asked = asked
        self._pod = pod
        self._area = area
        self._declared = _declared(job, asked.metrics[0]) if asked.metrics is not None else None

    def pack(self, work: Path, lease: Lease) -> Lfn | None:
        """The output that was made of what an evaluation has left in ``work``; None where that is nothing."""
        if self._declared is None or self._asked.metrics is None:
            return None
        lfn = Lfn(f"{self._declared.lfn}_{lease.number}")
        if not _packed(work / self._asked.metrics[1], lease.id, self._area.work / lfn):
            return None
        ways = ways_out(replace(self._declared, lfn=lfn), self._job, self._pod.site, vias_of(self._pod))
        self._pod.journal.write(Kind.STORING, files=[], destinations=destinations_json({lfn: tuple(ways)}))
        return lfn


def _packed(source: Path, point: str, target: Path) -> bool:
    """Write ``target``: one tarball, in which the point's id stands behind the name; whether there was anything."""
    if source.is_symlink() or not source.exists():
        return False
    try:
        with tarfile.open(target, "w:gz", compresslevel=1) as tar:
            tar.add(source, arcname=f"{source.name}_{point}")
    except OSError as error:
        log.warning("the metrics of a point could not be packed", point=point, why=str(error))
        target.unlink(missing_ok=True)
        return False
    return True


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
