"""What is saved of a payload that was stopped: its outputs so far and its checkpoints, in the log tarball.

They do not go to the outputs' destinations: there the next attempt's files are to lie, and these are not
finished. Only where the setting ``save_stopped`` or the queue (``save_stopped`` in its catchall) asks for it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from pilot.runner.area import JobArea
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import Stopped
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.outcome import Outcome

log = events(__name__)

_MOST_BYTES = 256 << 20
_BYTES_PER_S = 10e6  # packed, sent and verified: what a slow pod and a slow storage still do
_LOOK_S = 10.0


def to_save(job: Job, outcome: Outcome, pod: Pod, area: JobArea) -> list[str]:
    """The files to be saved, by their paths in the work directory, as many as fit; none if nobody asks."""
    asked = pod.settings.save_stopped or "save_stopped" in pod.site.queue.catchall
    if not asked or outcome.payload is None or not isinstance(outcome.cause, Stopped):
        return []
    room = min(_MOST_BYTES, pod.share("save", _MOST_BYTES / _BYTES_PER_S).left() * _BYTES_PER_S)
    chosen = []
    for path, size in _candidates(job, pod, area):
        if size > room:
            log.warning("not saved: too large for the time that is left", file=path, bytes=size)
            continue
        room -= size
        chosen.append(path)
    log.info("saving what the stopped payload has left", files=len(chosen))
    return chosen


def _candidates(job: Job, pod: Pod, area: JobArea) -> Iterator[tuple[str, int]]:
    """Checkpoints first, each file once, with its size: regular files of the work directory with one name only."""
    limit = pod.share("save", _LOOK_S).sooner(Deadline.after(_LOOK_S))
    walk = area.work_folder.walk(limit)
    found = {one.path: one.status.st_size for one in walk if one.is_file and one.status.st_nlink == 1}
    if walk.stopped:
        log.warning("not all that the payload has left could be looked at", why=walk.stopped)
    patterns = [re.compile(_expression(glob)) for glob in pod.settings.checkpoints]
    checkpoints = (path for pattern in patterns for path in sorted(found) if pattern.fullmatch(path))
    outputs = (str(file.lfn) for file in job.outputs if file.lfn in found)
    for path in dict.fromkeys((*checkpoints, *outputs)):
        yield path, found[path]


def _expression(glob: str) -> str:
    """A pattern for paths as `pathlib` knows it: ``*`` stays in one component, ``**`` is any number of them."""
    parts = [part for part in glob.split("/") if part not in ("", ".")]
    each = ["(?:[^/]+/)*" if part == "**" else _of_component(part) + "/" for part in parts]
    return "".join(each).removesuffix("/")


def _of_component(glob: str) -> str:
    """One component, with ``*``, ``?`` and ``[...]``."""
    return fnmatch.translate(glob).removeprefix("(?s:").removesuffix(r")\Z").replace(".*", "[^/]*")
