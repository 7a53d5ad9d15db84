"""The log tarball: the last file of all, stored also for a job that failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pilot.payload.process import tail
from pilot.runner import telling
from pilot.runner.area import JobArea
from pilot.runner.outputs import SAVE_S, Parcel, send
from pilot.runner.pod import Pod
from pilot.runner.saving import to_save
from pilot.runner.tarball import MOST_BYTES, pack
from pilot.staging.lanes.obedience import Mercy
from pilot.staging.planning.plan import Vias, Way
from pilot.staging.planning.ways import ways_out
from pilot.values.deadline import Deadline
from pilot.values.errors import GivenAway, JobError, TransferFailed
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.outcome import Outcome, StoredFile

log = events(__name__)

_PACKED_BYTES_PER_S = 10e6  # on a slow core


def store_log(
    job: Job, outcome: Outcome, ways: Sequence[Way], pod: Pod, area: JobArea, *, begun: bool = False
) -> Outcome:
    """The outcome with its log tarball stored, also when the job failed. ``ways`` are empty: not planned yet.

    ``begun``: an earlier life may have left half of it at its destination. A finished job without its log would
    be failed by the server, so it fails here, with the true reason.
    """
    outcome = replace(outcome, log_tail=tail(area.pilot_log, 1000))
    if job.log is None or isinstance(outcome.cause, GivenAway):  # whose name may be another attempt's log by now
        return outcome
    try:
        ways = ways or ways_out(job.log, job, pod.site, vias_of(pod))
        tarball = area.root / job.log.lfn
        area.report.write_text(json.dumps(telling.report(job, outcome), indent=1) + "\n")
        _pack(job, outcome, tarball, pod, area)
        stored = _store(job, Parcel(job.log, tarball, ways, overwrite=begun), pod)
    except Exception as error:  # noqa: BLE001 - whatever happens to the log, the final must go out (promise P1)
        failure = error if isinstance(error, JobError) else TransferFailed(f"log tarball: {error}", "out")
        log.error("the log is not stored", why=str(failure))
        return replace(outcome, cause=outcome.cause or failure)
    return replace(outcome, stored=(*outcome.stored, stored))


def vias_of(pod: Pod) -> Vias:
    """The storages near us that the files of this pod pass by."""
    return Vias.chosen(pod.settings.stagein_via, pod.settings.stageout_via, pod.site.queue)


def _store(job: Job, parcel: Parcel, pod: Pod) -> StoredFile:
    """Where another attempt's log has its place, it lies beside that: both are wanted."""
    mercy = Mercy(lambda: pod.share("save", SAVE_S), lambda: _cleared_until(pod), pod.hurry)
    policy = "overwrite" if pod.settings.existing_output == "overwrite" else "rename"
    with closing(send(job, [parcel], policy, pod, Deadline.after(SAVE_S), pod.stop, mercy)) as stored:
        return next(stored)


def _cleared_until(pod: Pod) -> Deadline:
    """By when half a log must be removed after a stop: the final needs the rest of its own share."""
    save, report = pod.share("save", SAVE_S), pod.share("report", SAVE_S)
    return Deadline((save.at + report.at) / 2, save.clock)


def _pack(job: Job, outcome: Outcome, tarball: Path, pod: Pod, area: JobArea) -> None:
    """The log, with what is to be saved of a stopped payload; trouble with that does not cost the log."""
    folder = f"tarball_PandaJob_{job.id}_{pod.site.queue.name}"
    left_s = pod.share("save", SAVE_S).left()
    most_bytes = min(MOST_BYTES, int(left_s * _PACKED_BYTES_PER_S) // 4)  # half of the time, for two large files
    try:
        pack(area, tarball, folder, to_save(job, outcome, pod, area), most_bytes)
    except (OSError, ValueError) as error:
        log.warning("the log could not be packed, and is packed without what was to be saved", why=str(error))
        pack(area, tarball, folder, most_bytes=most_bytes)
