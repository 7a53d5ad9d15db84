"""Metrics of single points: outputs that the job's definition names once, and that exist once for each point.

A declared output ``lfn`` stands for ``lfn_0``, ``lfn_1``...: the server accepts digits behind it (hpo-contract.md 4.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from pilot.runner.area import JobArea
from pilot.runner.hpo import files
from pilot.runner.hpo.crew import Evaluation
from pilot.runner.journal import Kind
from pilot.runner.lastfile import vias_of
from pilot.runner.past import Destinations, destinations_json
from pilot.runner.pod import Pod
from pilot.staging.planning.ways import ways_out
from pilot.values.hpo import PointWork
from pilot.values.job import Job, OutputFile
from pilot.values.names import Lfn


class Packer:
    """Packs the metrics of each point; where they will go is in the journal at once, for a next life."""

    def __init__(self, job: Job, asked: PointWork, pod: Pod, area: JobArea) -> None:
        self._job = job
        self._asked = asked
        self._pod = pod
        self._area = area
        self._declared = _declared(job, asked.metrics[0]) if asked.metrics is not None else None

    def pack(self, evaluation: Evaluation) -> Lfn | None:
        """The output that was made of one evaluation; None where it has left no metrics."""
        if self._declared is None:
            return None
        lfn = Lfn(f"{self._declared.lfn}_{evaluation.lease.number}")
        target = self._area.work / lfn
        if not files.pack_metrics(evaluation.folder, self._asked, evaluation.lease, target):
            return None
        ways = ways_out(replace(self._declared, lfn=lfn), self._job, self._pod.site, vias_of(self._pod))
        self._pod.journal.write(Kind.STORING, files=[], destinations=destinations_json({lfn: tuple(ways)}))
        return lfn


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
