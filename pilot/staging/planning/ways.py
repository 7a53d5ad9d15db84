"""Ways: where an output may go, the best place first, and by way of which storage near us.

The destination is the endpoint that the job names, else the queue's; each of its protocols is a way. A second
storage comes after it where the job allows one (``altStageOut``: on or off), or else the queue does
(``allow_altstageout`` in its params). The peer tries an alternative endpoint once, by rules of queue, job and
nucleus (pilot3-inventory.md, "Stage-out"); the nucleus has no say here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pilot.staging.planning.places import WRITE, WRITE_LOG, named, near, of_queue, third_party_pair, urls_in
from pilot.staging.transfer import Hop, Route
from pilot.values.errors import StageError
from pilot.values.events import events
from pilot.values.job import Job, OutputFile
from pilot.values.names import Endpoint, Scope, Url
from pilot.values.site import Queue, Site

log = events(__name__)


@dataclass(frozen=True, slots=True)
class Vias:
    """Storages near us, by name, that inputs and outputs pass by; "" for none."""

    inputs: str = ""
    outputs: str = ""

    @classmethod
    def chosen(cls, inputs: str, outputs: str, queue: Queue) -> Vias:
        """What the settings say, or else the queue."""
        return cls(inputs or queue.param("stagein_via"), outputs or queue.param("stageout_via"))


STRAIGHT = Vias()


@dataclass(frozen=True, slots=True)
class Way:
    """A place for an output. ``via`` is where we send it, if a storage brings it to ``url`` from there."""

    url: Url
    endpoint: Endpoint | None = None
    via: Url | None = None

    def route(self, source: Url) -> Route:
        """The way of a file of ours."""
        if self.via is None:
            return Route((Hop(source, self.url),), self.endpoint)
        hops = (Hop(source, self.via, passing=True), Hop(self.via, self.url, third_party="pull"))
        return Route(hops, self.endpoint)

    def renamed(self, suffix: str) -> Way:
        """The same place, under another name."""
        parts = urlsplit(self.url)
        return replace(self, url=Url(parts._replace(path=parts.path + suffix).geturl()))


def ways_out(file: OutputFile, job: Job, site: Site, vias: Vias = STRAIGHT) -> tuple[Way, ...]:
    """Where an output or the log goes. Raises NoStorage, NonDeterministic."""
    activities = WRITE_LOG if file is job.log else WRITE
    endpoint = file.endpoint or next(iter(of_queue(site.queue, activities)), None)
    direct = _places(file, job, site, endpoint, activities)
    ways = [*_by_way_of(vias.outputs, direct, file, job, site), *direct]
    if _may_go_elsewhere(job, site.queue):
        for other in of_queue(site.queue, activities):
            ways += _alternative(file, job, site, other, activities) if other != endpoint else []
    return tuple(ways)


def _may_go_elsewhere(job: Job, queue: Queue) -> bool:
    return queue.allows("allow_altstageout") if job.alt_stage_out is None else job.alt_stage_out


def _places(
    file: OutputFile, job: Job, site: Site, endpoint: Endpoint | None, activities: tuple[str, ...]
) -> list[Way]:
    storage = named(file.lfn, endpoint, site, "out")
    scope = file.scope or Scope(f"job.{job.id}")
    return [Way(url, storage.name) for url in urls_in(storage, scope, file.lfn, activities, "out")]


def _alternative(
    file: OutputFile, job: Job, site: Site, endpoint: Endpoint, activities: tuple[str, ...]
) -> Sequence[Way]:
    """A second storage, if it can take the file at all."""
    try:
        return _places(file, job, site, endpoint, activities)
    except StageError as error:
        log.debug("no alternative for an output", file=file.lfn, why=str(error))
        return ()


def _by_way_of(name: str, direct: Sequence[Way], file: OutputFile, job: Job, site: Site) -> Iterator[Way]:
    """To the storage near us, and from there to the destination by third-party copy, if the two can do that."""
    if not name or name == direct[0].endpoint:
        return
    storage = near(file.lfn, name, "stageout_via", site, "out")
    scope = Scope(f"via.{job.id}.{job.attempt}")  # two attempts may store files of one name at once
    pair = third_party_pair(urls_in(storage, scope, file.lfn, WRITE, "out"), [way.url for way in direct])
    if pair is None:
        why = "they have no protocol in common that copies by itself"
        log.warning("an output goes straight", file=file.lfn, by=name, to=direct[0].endpoint, why=why)
        return
    via, url = pair
    yield Way(url, direct[0].endpoint, via)
