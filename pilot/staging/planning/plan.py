"""The plan of a job's files: where each input comes from, and where each output goes.

Rucio and direct access will come in here and in `replicas.py`: the rest of the pilot sees transfers only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from pilot.staging.order import plain
from pilot.staging.planning.places import READ, WRITE, near, third_party_pair, urls_in
from pilot.staging.planning.replicas import Documents, Replica, Trust, find, metalinks
from pilot.staging.planning.ways import STRAIGHT, Vias, Way, ways_out
from pilot.staging.transfer import Hop, Route, Transfer
from pilot.values.errors import UntrustedUrl
from pilot.values.events import events
from pilot.values.job import InputFile, Job
from pilot.values.names import Lfn, Scope, Url
from pilot.values.site import Site, Storage

__all__ = ["Plan", "Trust", "Vias", "Way", "local_url", "make_plan"]

log = events(__name__)


@dataclass(frozen=True, slots=True)
class Inputs:
    """How inputs come to the work directory; ``via`` is a storage near us, "" for none."""

    site: Site
    work: Path
    trust: Trust
    via: str

    def transfer(self, file: InputFile, documents: Documents) -> Transfer:
        """The transfer of an input whose metalinks were read. Raises a StageError."""
        found = find(file, self.site, self.trust, documents)
        target = local_url(self.work / file.lfn)
        routes = tuple(dict.fromkeys(self._routes(file, found.replicas, target)))
        # a program gets other permissions: what is linked would change with it
        return Transfer(file.lfn, "in", routes, found.size, found.checksum, link=not file.executable)

    def _routes(self, file: InputFile, replicas: Sequence[Replica], target: Url) -> Iterator[Route]:
        """What is at hand is read there, the rest by way of the storage near us, and straight if all else fails."""
        storage = near(file.lfn, self.via, "stagein_via", self.site, "in") if self.via else None
        far = [one for one in replicas if storage is not None and not _is_at_hand(one, storage)]
        direct = {one: [Route((Hop(url, target),), one.endpoint) for url in one.urls] for one in replicas}
        for one in replicas:
            yield from direct[one] if one not in far else ()
        for one in far:
            yield from _by_way_of(storage, one, file, target) if storage is not None else ()
        for one in far:
            yield from direct[one]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be moved: inputs as transfers, and the ways of outputs and log by their names.

    ``pending`` are inputs of which nobody knows the places before their metalinks are read.
    """

    inputs: tuple[Transfer, ...]
    pending: tuple[InputFile, ...]
    destinations: Mapping[Lfn, tuple[Way, ...]]
    how: Inputs

    @property
    def documents(self) -> tuple[Url, ...]:
        """The metalinks that are to be read."""
        return tuple(dict.fromkeys(url for file in self.pending for url in metalinks(file, self.how.trust)))

    def complete(self, documents: Documents) -> tuple[Transfer, ...]:
        """All inputs, once the metalinks were read. Raises a StageError."""
        return (*self.inputs, *(self.how.transfer(file, documents) for file in self.pending))

    @property
    def urls(self) -> tuple[Url, ...]:
        """What the lanes will be asked for, if all goes well."""
        hops = [hop for transfer in self.inputs for hop in transfer.routes[0].hops]
        sent = [url for ways in self.destinations.values() for url in (ways[0].via, ways[0].url) if url is not None]
        return tuple(dict.fromkeys((*self.documents, *(hop.source for hop in hops), *sent)))


def local_url(path: Path) -> Url:
    """A path of ours as a URL."""
    return Url("file://" + quote(str(path)))


def make_plan(job: Job, site: Site, work: Path, trust: Trust, vias: Vias = STRAIGHT) -> Plan:
    """Find source or destination of every file. Raises a StageError naming the first file without one."""
    how = Inputs(site, work, trust, vias.inputs)
    pending = tuple(file for file in job.inputs if metalinks(file, trust))
    inputs = [how.transfer(file, {}) for file in job.inputs if file not in pending]
    if job.transformation is not None:
        inputs.append(_transformation(job.transformation, work, trust))
    files = (*job.outputs, *([job.log] if job.log is not None else []))
    ways = {file.lfn: ways_out(file, job, site, vias) for file in files}
    return Plan(tuple(inputs), pending, MappingProxyType(ways), how)


def _transformation(url: Url, work: Path, trust: Trust) -> Transfer:
    if not any(url.startswith(base.rstrip("/") + "/") for base in trust.transform_urls if base):
        raise UntrustedUrl(f"transformation {plain(url)}: not below a base URL of the setting transform_urls")
    name = Lfn(url.path.rsplit("/", 1)[-1])
    return Transfer(name, "in", (Route((Hop(url, local_url(work / name)),)),))


def _is_at_hand(replica: Replica, storage: Storage) -> bool:
    return replica.endpoint == storage.name or replica.urls[0].scheme == "file"


def _by_way_of(storage: Storage, replica: Replica, file: InputFile, target: Url) -> Iterator[Route]:
    """From the replica to the storage near us by third-party copy, and from there to us, if the two can do that."""
    scope = _scope_near(file)
    pair = third_party_pair(replica.urls, urls_in(storage, scope, file.lfn, WRITE, "in"))
    if pair is None:
        why = "they have no protocol in common that copies by itself"
        log.warning("an input comes straight", file=file.lfn, by=storage.name, source=plain(replica.urls[0]), why=why)
        return
    source, copy = pair
    read = urls_in(storage, scope, file.lfn, READ, "in")[0]
    yield Route((Hop(source, copy, third_party="pull"), Hop(read, target)), replica.endpoint)


def _scope_near(file: InputFile) -> Scope:
    """Where a copy lies that others may use too: below what identifies the file.

    That is its scope where a catalogue knows it. A URL of the job's own identifies only itself: jobs give many
    files one name.
    """
    if file.scope is not None and (file.endpoint is not None or not file.urls):
        return file.scope
    identity = file.urls[0] if file.urls else file.lfn
    return Scope(f"via.{hashlib.sha256(identity.encode()).hexdigest()[:16]}")
