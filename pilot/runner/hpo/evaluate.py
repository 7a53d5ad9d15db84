"""`evaluate`: the payload's step of a hyper-parameter job: points are asked for, evaluated, and their losses told."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from pilot.payload.sampler import Sampler
from pilot.payload.sidecar import Sidecar, find_sidecars
from pilot.resources.memory import MemoryGauge
from pilot.runner.area import JobArea
from pilot.runner.hpo.book import Book, Tally
from pilot.runner.hpo.connections import point_service
from pilot.runner.hpo.crew import Crew
from pilot.runner.hpo.ending import wind_up
from pilot.runner.hpo.ends import Ends
from pilot.runner.hpo.files import supplies
from pilot.runner.hpo.loop import PointLoop
from pilot.runner.hpo.metrics import Packer
from pilot.runner.hpo.slots import plan_slots
from pilot.runner.hpo.supply import Supply
from pilot.runner.journal import Kind
from pilot.runner.lending import Lent
from pilot.runner.observing import Observer, gpu_sampler
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import NoImage
from pilot.values.events import events
from pilot.values.hpo import PointsEnd, PointWork
from pilot.values.job import Job
from pilot.values.outcome import PayloadEnd
from pilot.values.settings import Settings
from pilot.values.stop import Stop
from pilot.values.usage import Usage

log = events(__name__)

_MOST_THREADS = 8  # errands under way at once: each is a thread and a connection, and mostly waits


def evaluate(
    job: Job, asked: PointWork, equipment: Lent, tell: Callable[[Usage], None], pod: Pod, area: JobArea, stop: Stop
) -> PayloadEnd:
    """Points, until there are no more, or a stop. ``tell`` hears what all of them use together.

    Raises NoImage, TransferFailed, JournalBroken or GpuLost.
    """
    stop.check()
    sidecars = _sidecars(asked, pod.settings)
    walltime = Deadline.after(job.walltime_s, pod.clock) if job.walltime_s else Deadline.never(pod.clock)
    limit = walltime.sooner(pod.deadline)
    slots = plan_slots(job, equipment, pod.settings, sidecars)
    given = supplies(asked, [file.lfn for file in job.inputs], area)
    devices = ",".join(slot.device for slot in slots.all)
    log.info("evaluating points", task=asked.task_id, slots=len(slots.all), devices=devices)
    book = Book(pod.journal)
    began = pod.clock.monotonic()
    with (
        gpu_sampler(equipment.gpus, pod.visible) as gpus,
        point_service(job.id, asked, book, pod, area, min(_MOST_THREADS, 1 + len(slots.all))) as service,
    ):
        crew = Crew(job, asked, equipment, given, book, pod, area)
        crew.spare(lambda: pod.lanes.pids() | ({gpus.pid} if gpus is not None and gpus.pid is not None else set()))
        sampler = Sampler(crew.living, crew.buried_s, "")
        observer = Observer(sampler, MemoryGauge.find(), gpus, pod.journal, area.usage, tell)
        tally = Tally()
        supply = Supply(asked, slots, service, pod, limit, tally)
        ends = Ends(asked, slots, supply, service, book, tally, pod, stop, Packer(job, asked, pod, area).pack)
        loop = PointLoop(asked, slots, crew, supply, ends, service, pod, stop, limit)
        try:
            loop.run(observer)
        finally:
            wind_up(loop, crew, service, asked, tally, pod, stop)
        observer.look(last=True)
        points = tally.end()
    _remember(points, crew, pod, pod.clock.monotonic() - began, stop)
    return PayloadEnd(
        0 if points.closed or not points.tried else 1,
        crew.buried_s(),
        crew.max_rss_kib,
        memory=observer.memory,
        stopped=stop.reason is not None,
        usage=observer.usage,
        gpu_lost=observer.lost,
        points=points,
    )


def _sidecars(asked: PointWork, settings: Settings) -> list[Sidecar]:
    """Those that there are. Raises NoImage where evaluations could have their image in no way."""
    sidecars = find_sidecars(Path(settings.sidecars)) if settings.sidecars else []
    if settings.sidecars and not sidecars:
        raise NoImage(f"no sidecar is alive in {settings.sidecars}: each has its wrapper payload-sidecar.sh running")
    ours = not asked.image or any(fnmatchcase(asked.image, pattern) for pattern in settings.own_images)
    if not sidecars and not ours:
        raise NoImage(
            f"the job wants the image {asked.image}: there is no sidecar with it (setting sidecars), "
            "and own_images does not say that this pod's image stands for it"
        )
    return sidecars


def _remember(points: PointsEnd, crew: Crew, pod: Pod, seconds: float, stop: Stop) -> None:
    facts = {"exit_code": 0 if points.closed or not points.tried else 1, "cpu_s": round(crew.buried_s(), 3)}
    pod.journal.write(
        Kind.EXITED,
        **facts,
        max_rss_kib=crew.max_rss_kib,
        seconds=round(seconds, 3),
        stopped=stop.reason is not None,
    )
    best = points.best
    log.info(
        "points ended",
        tried=points.tried,
        closed=len(points.closed),
        left=len(points.left) or None,
        untold=len(points.untold) or None,
        best=best[0] if best else None,
        loss=best[1] if best else None,
        **facts,
    )
