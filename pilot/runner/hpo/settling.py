"""Settling: the points of a job whose pilot is no more (hpo-contract.md 10.3).

A loss that was measured is told, if it was not: nobody needs to evaluate that point again. So is one that stands in a
complete answer of an evaluation whose end nobody has seen. All other points are left to the server. That one was closed
counts if the server says so: a payload can write to the journal.
"""

from __future__ import annotations

from pilot.runner.area import JobArea
from pilot.runner.hpo.book import Book, Entries, Step
from pilot.runner.hpo.connections import point_service
from pilot.runner.hpo.messages import Closed, Lost
from pilot.runner.hpo.verdict import left_behind
from pilot.runner.past import Past
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.events import events
from pilot.values.hpo import PointsEnd, PointWork
from pilot.values.outcome import PayloadEnd

log = events(__name__)

_RUNNING = (Step.STARTING, Step.STARTED)
_MEASURED = (Step.MEASURED, Step.TOLD)
_THREADS = 4


def settled(past: Past, job_id: int, asked: PointWork, area: JobArea, pod: Pod) -> PayloadEnd:
    """What became of its points, now that all is told that can be told."""
    book = Book(pod.journal)
    measured = _measured(past.points, asked, book)
    claimed = {point: entry for point, entry in past.points.items() if entry.step is Step.CLOSED}
    closed: dict[str, float] = {}
    lost: dict[str, str] = {}
    if measured or claimed:
        log.info("telling losses that an earlier life has left", points=len(measured), closed=len(claimed))
        with point_service(job_id, asked, book, pod, area, min(_THREADS, len(measured) + 1)) as service:
            service.confirm()
            for point, loss in measured.items():
                service.resume(past.points[point].event, point, loss)
            limit = pod.share("outputs", pod.settings.patience)
            with pod.watchdog.waiting(limit):
                service.finish(limit, *([pod.stop] if pod.stop.reason is None else []))
            while (message := service.mailbox.get(Deadline.after(0))) is not None:
                if isinstance(message, Closed):
                    closed[message.point] = message.loss
                elif isinstance(message, Lost):
                    lost[message.point] = message.why
            for point, entry in claimed.items():
                if service.has_ended(entry.event):
                    closed[point] = entry.loss or 0.0
                else:
                    lost[point] = "the journal says that it was closed, and the server does not"
    points = PointsEnd(
        tried=sum(entry.step is not Step.LEASED for entry in past.points.values()),
        closed=closed,
        untold={point: loss for point, loss in measured.items() if point not in closed},
        left=lost,
    )
    end = past.payload or PayloadEnd(0)
    return PayloadEnd(0 if closed else end.exit_code, end.cpu_s, end.max_rss_kib, points=points)


def _measured(entries: Entries, asked: PointWork, book: Book) -> dict[str, float]:
    """Losses that nobody was told, or whose events are still open."""
    found: dict[str, float] = {}
    for point, entry in entries.items():
        if entry.step in _MEASURED and entry.loss is not None:
            found[point] = entry.loss
        elif entry.step in _RUNNING and entry.folder is not None:
            loss = left_behind(entry.folder, asked.output_file)
            if loss is not None:
                book.measured(point, loss)
                found[point] = loss
    return found
