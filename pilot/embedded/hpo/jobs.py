"""The jobs of a study, as JEDI makes them for a phpo task: one whenever a pilot asks and there is work.

Facts: hpo-contract.md 3.3, 3.4, 4.2. As JEDI does, it stops where too many jobs have failed.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from pilot.embedded.database import Database, JobTable
from pilot.embedded.definition import Order, Source, panda_definition
from pilot.embedded.events import EventTable
from pilot.embedded.hpo.studies import Studies
from pilot.embedded.hpo.tables import Kept
from pilot.embedded.jobs import FINAL
from pilot.values.names import Checksum, Lfn, Url

_RUN_HPO = "runHPO-00-00-01"


_FEWEST_FAILURES = 20

# Raw definitions may hold what SQLite does not take for JSON.
_SCHEMA = """
CREATE INDEX IF NOT EXISTS jobs_by_task ON jobs (json_extract(definition, '$.taskID')) WHERE json_valid(definition);
"""
_OF_TASK = """
SELECT id, status, json_extract(definition, '$.segment') FROM jobs
WHERE json_valid(definition) AND json_extract(definition, '$.taskID')=? ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class StudyJob:
    """A job of a study."""

    id: int
    status: str
    segment: int

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.status not in FINAL


class Generator:
    """Makes jobs."""

    def __init__(self, database: Database, studies: Studies, table: JobTable, events: EventTable) -> None:
        self._database = database
        self._studies = studies
        self._table = table
        self._events = events
        self._making = threading.Lock()
        database.add(_SCHEMA)

    def generate(self, queue: str, base: str) -> None:
        """A job for each study of the queue that has more work than jobs wait for; ``base`` is our URL."""
        for kept in self._studies.all(queue):
            with self._making:  # two that ask at once are not two wants
                segment = self._needy(kept)
                if segment is not None:
                    build = partial(definition, kept, base, segment, self._studies.key(kept.task))
                    self._table.submit(queue, build, time.time())

    def jobs(self, task: int) -> list[StudyJob]:
        """The jobs of a task, oldest first."""
        return [StudyJob(job, status, segment or 0) for job, status, segment in self._database.rows(_OF_TASK, (task,))]

    def given_up(self, kept: Kept) -> str:
        """Why no more jobs are made although there is work; "" if they are."""
        jobs = self.jobs(kept.task)
        failed = [job for job in jobs if job.status in ("failed", "cancelled")]
        if len(failed) < max(_FEWEST_FAILURES, 2 * kept.most_points) or any(job.active for job in jobs):
            return ""
        last = self._table.load(failed[-1].id)
        said = (last.fields.get("pilot_error_diag") or last.error_diag) if last else ""
        return f"{len(failed)} jobs have failed, the last one, {failed[-1].id}: {said}"

    def _needy(self, kept: Kept) -> int | None:
        """The segment that wants a job most; None where no more jobs are wanted."""
        if self._studies.is_complete(kept):
            return None
        rows = self._studies.points(kept.task)
        active = [job for job in self.jobs(kept.task) if job.active]
        if len(active) >= kept.study.parallel_jobs or self.given_up(kept):
            return None
        wants = {}
        for segment in kept.segments:
            idle = sum(job.segment == segment and not self._events.holds(job.id) for job in active)
            ready = self._events.count_ready(kept.task, segment)
            wants[segment] = ready + self._studies.makeable(kept, rows, segment) - idle
        best = max(wants, key=lambda one: wants[one])
        return best if wants[best] > 0 else None


def definition(kept: Kept, base: str, segment: int, key: str, job_id: int) -> dict[str, Any]:
    """What a pilot gets, field by field as from a phpo task."""
    evaluation = kept.study.evaluation
    metrics = f"task.{kept.task}.{evaluation.metrics}.{job_id}.tgz" if evaluation.metrics else ""
    order = Order(
        name=f"{kept.study.study}.{job_id}",
        transformation=f"{base}/cache/{_RUN_HPO}",
        job_pars=arguments(kept, base, segment, metrics),
        inputs=tuple(_source(one) for one in kept.inputs),
        outputs=(Lfn(metrics),) if metrics else (),
        cores=evaluation.cores,
        gpus=evaluation.gpus,
        memory_mib=evaluation.memory_mib or None,
    )
    own: dict[str, Any] = {
        "isHPO": "True",
        "taskID": kept.task,
        "prodSourceLabel": "managed",
        "progressUrl": f"{base}/studies/{key}/points",
    }
    if metrics:
        own["allowNoOutput"] = metrics
    if evaluation.timeout_seconds:
        own["pointTimeout"] = evaluation.timeout_seconds
    if evaluation.image:
        own["container_name"] = evaluation.image
    if kept.study.segments:
        own["segment"] = segment
    return {**panda_definition(order, job_id), **own}


def addressed(given: Mapping[str, Any], base: str) -> dict[str, Any]:
    """A job's definition with our URL as who gets it knows it: who was given it first may have used another."""
    progress = given.get("progressUrl")
    if given.get("isHPO") != "True" or not isinstance(progress, str):
        return dict(given)
    before = re.sub(r"/studies/[^/]+/points$", "", progress)
    texts = {key: given[key] for key in ("transformation", "jobPars", "progressUrl") if isinstance(given[key], str)}
    return {**given, **{key: text.replace(before, base) for key, text in texts.items()}}


def arguments(kept: Kept, base: str, segment: int, metrics: str) -> str:
    """The arguments of runHPO (4.2)."""
    study, evaluation, checkpoint = kept.study, kept.study.evaluation, kept.study.checkpoint
    names = [one["name"] for one in kept.inputs]
    given: Mapping[str, Any] = {
        "-o": evaluation.output,
        "-p": quote(evaluation.exec),
        "-a": kept.archive,
        "--inSampleFile": evaluation.input,
        "--inMap": repr({"IN_DATA": names}) if names else "",
        "--writeInputToTxt": f"IN_DATA:{evaluation.training_data}" if names else "",
        "--outMetaFile": evaluation.meta,
        "--outMetricsFile": f"{metrics}^{evaluation.metrics}" if metrics else "",
        "--sourceURL": base,
        "--pandaURL": base,
        "--iddsURL": base,
        "--checkPointToSave": ",".join(checkpoint.save),
        "--checkPointToLoad": checkpoint.load,
        "--checkPointInterval": f"{checkpoint.interval_seconds / 60:.6f}" if checkpoint.save else "",
        "--segmentID": segment if study.segments else "",
        "--maxLoopCount": study.points_per_job or "",
    }
    return shlex.join(word for name, value in given.items() if value != "" for word in (name, str(value)))


def _source(one: Mapping[str, Any]) -> Source:
    checksum = one.get("checksum")
    return Source(Lfn(one["name"]), (Url(one["url"]),), one.get("size"), Checksum.parse(checksum) if checksum else None)
