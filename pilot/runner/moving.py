"""Moving files with the watchdog's leave: what stage-in, stage-out and the log have in common."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing

from pilot.runner.pod import Pod
from pilot.staging.lanes.diskroom import DiskRoom
from pilot.staging.lanes.obedience import Mercy
from pilot.staging.order import plain
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError
from pilot.values.events import events
from pilot.values.stop import Stop

log = events(__name__)

LONGEST_S = 6 * 3600.0
"""After so long, at the latest, one file more has ended: what the lanes allow each (`Limits.total_s`)."""


def ends_of(
    transfers: Iterable[Transfer],
    pod: Pod,
    limit: Deadline,
    stop: Stop,
    mercy: Mercy | None = None,
    count: Callable[[Transfer, int], None] = lambda _transfer, _bytes: None,
    disk: DiskRoom | None = None,
) -> Generator[tuple[Transfer, Moved | StageError], None, None]:
    """Each transfer with how it ended, as it ends; raises Stopped. To be closed, which ends what is under way.

    ``count`` is told the bytes of each try so far; what it raises ends them all, as NoSpace does of files that take
    more than ``disk`` has.
    """

    def progress(transfer: Transfer, moved: int) -> None:
        log.debug("progress", phase=f"stage-{transfer.direction}", file=transfer.name, bytes=moved)
        count(transfer, moved)

    with closing(pod.lanes.move_all(transfers, limit, stop, progress, mercy, disk)) as ends:
        while True:
            with pod.watchdog.waiting(Deadline.after(LONGEST_S).sooner(limit)):
                end = next(ends, None)
            if end is None:
                return
            if isinstance(end[1], Moved):
                _tell(end[1])
            yield end


def _tell(moved: Moved) -> None:
    """A line of the job's story."""
    transfer, route = moved.transfer, moved.route
    place = {"source": plain(route.source)} if transfer.direction == "in" else {"destination": plain(route.destination)}
    facts = {"bytes": moved.size, "checksum": moved.checksum, "seconds": moved.seconds, "endpoint": route.endpoint}
    if moved.seconds and not moved.there:
        facts["speed"] = round(moved.size / moved.seconds)
    log.info(f"stage-{transfer.direction}", file=transfer.name, **facts, **place)
