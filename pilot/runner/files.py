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
from pilot.runner import telling
from pilot.runner.area import JobArea
from pilot.runner.journal import Kind
from pilot.runner.past import Destinations, stored_json
from pilot.runner.pod import Pod
from pilot.runner.saving import to_save
from pilot.runner.tarball import MOST_BYTES, pack
from pilot.staging.obedience import Mercy
from pilot.staging.plan import Plan, local_url, log_destination
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import (
    GivenAway,
    InputsTooLarge,
    JobError,
    OutputMissing,
    Stopped,
    TransferFailed,
)
from pilot.values.events import events
from pilot.values.job import Job, OutputFile
from pilot.values.names import Endpoint, Url
from pilot.values.outcome import Outcome, StoredFile
from pilot.values.stop import FROM_OUTSIDE, Stop

log = events(__name__)

_LOG_S = 600.0  # to store the log, where no grace period is running out
_PACKED_BYTES_PER_S = 10e6  # on a slow core
_LONGEST_S = 6 * 3600.0  # what the lanes allow one file (LaneSettings.total_s)
_NAMESPACE = uuid.UUID("6f6b52d1-6a0c-4a6e-9d0a-6c1f5b2f9f10")
SECRETS_NAME = "panda_secrets.json"
Destination = tuple[Url, Endpoint | None]


def check_inputs(job: Job, pod: Pod) -> None:
    """Refuse more input than the queue allows, before a byte is moved."""
    limit_mib, total = pod.site.queue.maxinputsize_mib, sum(file.size or 0 for file in job.inputs)
    if limit_mib and total > limit_mib << 20:
        raise InputsTooLarge(f"the inputs have {total >> 20} MiB, and the queue allows {limit_mib}")


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


def stage_out(
    job: Job, destinations: Destinations, before: tuple[StoredFile, ...], pod: Pod, area: JobArea, stop: Stop
) -> tuple[StoredFile, ...]:
    """Every declared output is stored and verified. All are looked for before the first is moved.

    What an earlier life has stored ``before`` is not sent again. A stop of the pilot lets those outputs be
    finished that fit into their share of the grace period; one of the job lets none.
    """
    done = {file.lfn: file for file in before}
    there = [file for file in job.outputs if file.lfn in done or _is_there(file, area.work / file.lfn)]
    pod.journal.write(Kind.STORING, files=[file.lfn for file in there if file.lfn not in done])
    mercy = Mercy(lambda: _outputs_until(pod, stop), lambda: pod.share("save", _LOG_S), pod.hurry)
    for file in there:
        if file.lfn not in done:
            try:
                done[file.lfn] = _store(
                    file, area.work / file.lfn, destinations[file.lfn], job, pod, pod.deadline, stop, mercy
                )
            except Stopped as error:
                raise Stopped(f"{error}; {len(done)} of {len(there)} outputs were stored", error.code) from None
    return tuple(done[file.lfn] for file in there)


def _outputs_until(pod: Pod, stop: Stop) -> Deadline:
    """By when outputs may be on their way after this stop."""
    return pod.share("outputs", 0) if stop.reason in FROM_OUTSIDE else Deadline.after(0)


def _log_cleared_until(pod: Pod) -> Deadline:
    """By when half a log must be removed after a stop: the final needs the rest of its own share."""
    save, report = pod.share("save", _LOG_S), pod.share("report", _LOG_S)
    return Deadline((save.at + report.at) / 2, save.clock)


def store_log(job: Job, outcome: Outcome, destination: Destination | None, pod: Pod, area: JobArea) -> Outcome:
    """The outcome with its log tarball stored, also when the job failed; ``destination`` None: not planned yet.

    A finished job without its log would be failed by the server, so it fails here, with the true reason.
    """
    outcome = replace(outcome, log_tail=tail(area.pilot_log, 1000))
    if job.log is None or isinstance(outcome.cause, GivenAway):  # whose name may be another attempt's log by now
        return outcome
    try:
        destination = destination or log_destination(job, pod.site, job.log)
        tarball = area.root / job.log.lfn
        area.report.write_text(json.dumps(telling.report(job, outcome), indent=1) + "\n")
        _pack(job, outcome, tarball, pod, area)
        mercy = Mercy(lambda: pod.share("save", _LOG_S), lambda: _log_cleared_until(pod), pod.hurry)
        stored = _store(job.log, tarball, destination, job, pod, Deadline.after(_LOG_S), pod.stop, mercy)
    except Exception as error:  # noqa: BLE001 - whatever happens to the log, the final must go out (promise P1)
        failure = error if isinstance(error, JobError) else TransferFailed(f"log tarball: {error}", "out")
        log.error("the log is not stored", why=str(failure))
        return replace(outcome, cause=outcome.cause or failure)
    return replace(outcome, stored=(*outcome.stored, stored))


def _pack(job: Job, outcome: Outcome, tarball: Path, pod: Pod, area: JobArea) -> None:
    """The log, with what is to be saved of a stopped payload; trouble with that does not cost the log."""
    folder = f"tarball_PandaJob_{job.id}_{pod.site.queue.name}"
    left_s = pod.share("save", _LOG_S).left()
    most_bytes = min(MOST_BYTES, int(left_s * _PACKED_BYTES_PER_S) // 4)  # half of the time, for two large files
    try:
        pack(area, tarball, folder, to_save(job, outcome, pod, area), most_bytes)
    except (OSError, ValueError) as error:
        log.warning("the log could not be packed, and is packed without what was to be saved", why=str(error))
        pack(area, tarball, folder, most_bytes=most_bytes)


def _store(
    file: OutputFile,
    path: Path,
    destination: Destination,
    job: Job,
    pod: Pod,
    limit: Deadline,
    stop: Stop,
    mercy: Mercy,
) -> StoredFile:
    """Send one file, and remember that it is there."""
    url, endpoint = destination
    moved = _move(Transfer(file.lfn, "out", local_url(path), url, path.stat().st_size), pod, limit, stop, mercy)
    guid = file.guid or str(uuid.uuid5(_NAMESPACE, f"{job.id}:{job.attempt}:{file.lfn}"))
    stored = StoredFile(file.lfn, guid, moved.size, moved.checksum, url, endpoint)
    pod.journal.write(Kind.STORED, **stored_json(stored))
    return stored


def _move(transfer: Transfer, pod: Pod, limit: Deadline, stop: Stop, mercy: Mercy | None = None) -> Moved:
    """One file; raises its StageError, or Stopped."""
    began = time.monotonic()
    with pod.watchdog.waiting(Deadline.after(_LONGEST_S).sooner(limit)):
        moved = pod.lanes.move(transfer, limit, stop, lambda count: _progress(transfer, count), mercy)
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
