"""The log tarball: the last file of all, stored also for a job that failed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from pilot.runner import telling
from pilot.runner.area import JobArea
from pilot.runner.left import Left, left_of
from pilot.runner.outputs import SAVE_S, Parcel, send
from pilot.runner.pod import Pod
from pilot.runner.room import free_reserve, make_room
from pilot.runner.saving import to_save
from pilot.runner.tarball import MOST_BYTES, pack, size_bytes
from pilot.staging.lanes.obedience import Mercy
from pilot.staging.planning.plan import Vias, Way
from pilot.staging.planning.ways import ways_out
from pilot.values.deadline import Deadline
from pilot.values.errors import GivenAway, JobError, TransferFailed
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.names import Lfn
from pilot.values.outcome import Outcome, StoredFile

log = events(__name__)

_PACKED_BYTES_PER_S = 10e6  # on a slow core
_SHORT_BYTES = 128 << 10  # of each member, where the reserve is all that there is
_PLACE = "log"


def store_log(
    job: Job, outcome: Outcome, ways: Sequence[Way], pod: Pod, area: JobArea, *, begun: bool = False
) -> Outcome:
    """The outcome with its log tarball stored, also when the job failed. ``ways`` are empty: not planned yet.

    ``begun``: an earlier life may have left half of it at its destination. A finished job without its log would
    be failed by the server, so it fails here, with the true reason.
    """
    outcome = replace(outcome, log_tail=area.log.tail(1000))
    if job.log is None or isinstance(outcome.cause, GivenAway):  # whose name may be another attempt's log by now
        return outcome
    try:
        ways = ways or ways_out(job.log, job, pod.site, vias_of(pod))
        tarball = _packed(job, job.log.lfn, outcome, pod, area)
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


def _packed(job: Job, name: Lfn, outcome: Outcome, pod: Pod, area: JobArea) -> Left:
    """The log, with what is to be saved of a stopped payload; trouble with that does not cost the log.

    It lies in a directory of its own, which the payload has never seen. Where the disk is full, what nobody wants
    any more goes first, then the reserve; what is packed then is short enough to fit into that.
    """
    report = (json.dumps(telling.report(job, outcome), indent=1) + "\n").encode()
    left_s = pod.share("save", SAVE_S).left()
    most_bytes = min(MOST_BYTES, int(left_s * _PACKED_BYTES_PER_S) // 4)  # half of the time, for two large files
    saved = to_save(job, outcome, pod, area)
    tries = [(saved, most_bytes), ([], most_bytes), ([], min(most_bytes, _SHORT_BYTES))]
    make_room(area, saved, size_bytes(area, saved, most_bytes), pod)
    for number, (files, most) in enumerate(tries):
        try:
            return _written(f"tarball_PandaJob_{job.id}_{pod.site.queue.name}", name, report, files, most, pod, area)
        except (OSError, ValueError) as error:
            if number == len(tries) - 1:
                raise
            log.warning("the log could not be packed, and is packed with less in it", why=str(error))
            free_reserve(area)
    raise AssertionError  # the last try returns or raises


def packed_log(name: Lfn, area: JobArea) -> Left | None:
    """The log tarball that an earlier life has packed; None where it is not there any more."""
    try:
        with area.own.below(_PLACE) as place, place.open(name) as file:
            return left_of(file.fileno(), place.path / name)
    except OSError:
        return None


def _written(
    folder: str, name: Lfn, report: bytes, saved: Sequence[str], most_bytes: int, pod: Pod, area: JobArea
) -> Left:
    with area.fresh(_PLACE) as place, closing(place.create(name)) as file:
        with os.fdopen(os.dup(file.fileno()), "wb") as target:
            pack(area, target, folder, pod.redactor, report, saved, most_bytes)
        return left_of(file.fileno(), place.path / name)
