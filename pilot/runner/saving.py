"""What is saved of a payload that was stopped: its outputs so far and its checkpoints, in the log tarball.

They do not go to the outputs' destinations: there the next attempt's files are to lie, and these are not
finished. Only where the setting ``save_stopped`` or the queue (``save_stopped`` in its catchall) asks for it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pilot.runner.area import JobArea
from pilot.runner.pod import Pod
from pilot.values.errors import Stopped
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.outcome import Outcome

log = events(__name__)

_MOST_BYTES = 256 << 20
_BYTES_PER_S = 10e6  # packed, sent and verified: what a slow pod and a slow storage still do


def to_save(job: Job, outcome: Outcome, pod: Pod, area: JobArea) -> list[Path]:
    """The files to be saved, as many as fit into the size and the time that are left; none if nobody asks."""
    asked = pod.settings.save_stopped or "save_stopped" in pod.site.queue.catchall
    if not asked or outcome.payload is None or not isinstance(outcome.cause, Stopped):
        return []
    room = min(_MOST_BYTES, pod.share("save", _MOST_BYTES / _BYTES_PER_S).left() * _BYTES_PER_S)
    chosen = []
    for path, size in _candidates(job, pod, area.work):
        if size > room:
            log.warning("not saved: too large for the time that is left", file=path.name, bytes=size)
            continue
        room -= size
        chosen.append(path)
    log.info("saving what the stopped payload has left", files=len(chosen))
    return chosen


def _candidates(job: Job, pod: Pod, work: Path) -> Iterator[tuple[Path, int]]:
    """Checkpoints first, each file once: regular files of the work directory only."""
    checkpoints = (path for pattern in pod.settings.checkpoints for path in sorted(work.glob(pattern)))
    outputs = (work / file.lfn for file in job.outputs)
    for path in dict.fromkeys((*checkpoints, *outputs)):
        size = _size(path, work)
        if size is not None:
            yield path, size


def _size(path: Path, work: Path) -> int | None:
    """The size of a regular file that really lies in the work directory; None for anything else."""
    try:
        status = os.lstat(path)
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(work))
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) and inside else None
