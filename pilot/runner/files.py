"""The steps that move files: stage in, stage out, and the log tarball as the last file of all."""

from __future__ import annotations

import json
import os
import stat
import time
import uuid
from dataclasses import replace
from pathlib import Path

from pilot.payload.process import tail
from pilot.resources.probe import Resources
from pilot.runner import telling
from pilot.runner.area import JobArea
from pilot.runner.pod import Pod
from pilot.runner.tarball import pack
from pilot.staging.plan import Plan, local_url, log_destination
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import (
    InputsTooLarge,
    JobError,
    OutputMissing,
    ResourceError,
    Stopped,
    TransferFailed,
)
from pilot.values.events import events
from pilot.values.job import Job, OutputFile
from pilot.values.names import Endpoint, Url
from pilot.values.outcome import Outcome, StoredFile
from pilot.values.stop import Stop

log = events(__name__)

_LOG_S = 600.0  # to store the log, where no grace period is running out
_NAMESPACE = uuid.UUID("6f6b52d1-6a0c-4a6e-9d0a-6c1f5b2f9f10")
SECRETS_NAME = "panda_secrets.json"
Destination = tuple[Url, Endpoint | None]


def afford(job: Job, _resources: Resources, pod: Pod) -> None:
    """Refuse what the pod or the queue cannot give, before a byte is moved."""
    limit_mib, total = pod.site.queue.maxinputsize_mib, sum(file.size or 0 for file in job.inputs)
    if limit_mib and total > limit_mib << 20:
        raise InputsTooLarge(f"the inputs have {total >> 20} MiB, and the queue allows {limit_mib}")
    if job.gpus:
        raise ResourceError(f"the job asks for {job.gpus} GPUs, and this pilot hands out none")


def stage_in(job: Job, plan: Plan, pod: Pod, area: JobArea, stop: Stop) -> None:
    """Every input lies in the work directory, verified; programs among them can be executed."""
    if job.secrets:
        _write_secrets(job, area.work / SECRETS_NAME)
    programs = {file.lfn for file in job.inputs if file.executable}
    for transfer in plan.inputs:
        _move(transfer, pod, pod.deadline, stop)
        if transfer.name in programs or transfer.source == job.transformation:
            Path(transfer.destination.path).chmod(0o755)


def _write_secrets(job: Job, file: Path) -> None:
    """The job's secrets, for its payload only: the name is the one that PanDA's users know."""
    file.touch(mode=0o600)
    file.write_text(json.dumps(dict(job.secrets)), encoding="utf-8")


def stage_out(job: Job, plan: Plan, pod: Pod, area: JobArea, stop: Stop) -> tuple[StoredFile, ...]:
    """Every declared output is stored and verified. All are looked for before the first is moved."""
    there = [file for file in job.outputs if _is_there(file, area.work / file.lfn)]
    return tuple(
        _store(file, area.work / file.lfn, plan.destinations[file.lfn], job, pod, pod.deadline, stop) for file in there
    )


def store_log(job: Job, outcome: Outcome, pod: Pod, area: JobArea) -> Outcome:
    """The outcome with its log tarball stored, also when the job failed.

    A finished job without its log would be failed by the server, so it fails here, with the true reason.
    """
    outcome = replace(outcome, log_tail=tail(area.pilot_log, 1000))
    if job.log is None:
        return outcome
    try:
        destination = log_destination(job, pod.site, job.log)
        tarball = area.root / job.log.lfn
        area.report.write_text(json.dumps(telling.report(job, outcome), indent=1) + "\n")
        pack(area, tarball, f"tarball_PandaJob_{job.id}_{pod.site.queue.name}")
        stored = _store_in_time(job.log, tarball, destination, job, pod)
    except Exception as error:  # noqa: BLE001 - whatever happens to the log, the final must go out (promise P1)
        failure = error if isinstance(error, JobError) else TransferFailed(f"log tarball: {error}", "out")
        log.error("the log is not stored", why=str(failure))
        return replace(outcome, cause=outcome.cause or failure)
    return replace(outcome, stored=(*outcome.stored, stored))


def _store_in_time(file: OutputFile, path: Path, destination: Destination, job: Job, pod: Pod) -> StoredFile:
    """Store the log; a stop that comes meanwhile, or came before, leaves it the time set aside for saving."""
    if pod.stop.reason is None:
        try:
            return _store(file, path, destination, job, pod, Deadline.after(_LOG_S), pod.stop)
        except Stopped:
            log.warning("stopped while the log was stored: once more, within the grace period")
    with Stop() as nobody:
        return _store(file, path, destination, job, pod, pod.share("save", _LOG_S), nobody)


def _store(
    file: OutputFile, path: Path, destination: Destination, job: Job, pod: Pod, limit: Deadline, stop: Stop
) -> StoredFile:
    url, endpoint = destination
    moved = _move(Transfer(file.lfn, "out", local_url(path), url), pod, limit, stop)
    guid = file.guid or str(uuid.uuid5(_NAMESPACE, f"{job.id}:{job.attempt}:{file.lfn}"))
    return StoredFile(file.lfn, guid, moved.size, moved.checksum, url, endpoint)


def _move(transfer: Transfer, pod: Pod, limit: Deadline, stop: Stop) -> Moved:
    """One file; raises its StageError, or Stopped."""
    stop.check()
    began = time.monotonic()
    moved = pod.lanes.move(transfer, limit, stop, progress=lambda count: _progress(transfer, count))
    took = time.monotonic() - began
    log.info(f"stage-{transfer.direction}", file=transfer.name, bytes=moved.size, checksum=moved.checksum, seconds=took)
    return moved


def _progress(transfer: Transfer, count: int) -> None:
    log.debug("progress", phase=f"stage-{transfer.direction}", file=transfer.name, bytes=count)


def _is_there(file: OutputFile, path: Path) -> bool:
    """Whether the payload left it: as a regular file, not as something that points out of the work directory."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        if file.may_be_missing:
            return False
        raise OutputMissing(f"the payload left no output {file.lfn}") from None
    if not stat.S_ISREG(mode):
        raise OutputMissing(f"the payload left no output {file.lfn}: what has this name is not a regular file")
    return True
