"""Replicas: where an input lies, the nearest place first.

From the job's own URLs (metalinks among them stand for what they name), then from the endpoint that it names.
Rucio will come in here as one more source.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilot.staging.order import plain
from pilot.staging.planning.metalink import Metalink, MetalinkError, is_metalink, parse
from pilot.staging.planning.places import READ, named, of_queue, urls_in
from pilot.values.errors import Md5Mismatch, Mismatch, StageError, TransferFailed, UntrustedUrl
from pilot.values.events import events
from pilot.values.job import InputFile
from pilot.values.names import Checksum, Endpoint, Url
from pilot.values.site import Site

log = events(__name__)

Documents = Mapping[Url, bytes | StageError]
"""What was found at the URLs of metalinks, or why nothing was."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a job definition may name by itself: directories of ``file:`` URLs, bases of transformations."""

    input_roots: Sequence[str] = ()
    transform_urls: Sequence[str] = ()

    def allows(self, url: Url) -> bool:
        """Whether an input may come from there: of our own file system only below the roots that settings name."""
        if url.scheme != "file":
            return True
        path = Path(os.path.realpath(url.path))
        return any(path.is_relative_to(os.path.realpath(root)) for root in self.input_roots)


@dataclass(frozen=True, slots=True)
class Replica:
    """One place of a file, with each URL by which it can be read there, the best first."""

    urls: tuple[Url, ...]
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The places of an input, the nearest first, and its size and checksum as far as they are known."""

    replicas: tuple[Replica, ...]
    size: int | None
    checksum: Checksum | None


def metalinks(file: InputFile, trust: Trust) -> tuple[Url, ...]:
    """The documents that must be read before `find`; a job that wants one itself calls its file so."""
    return tuple(url for url in file.urls if _is_document(url, file) and trust.allows(url))


def _is_document(url: Url, file: InputFile) -> bool:
    return is_metalink(url.path) and not is_metalink(file.lfn)


def find(file: InputFile, site: Site, trust: Trust, documents: Documents) -> Found:
    """Look for a file. Raises a StageError if it is nowhere, or Mismatch if a metalink means another file."""
    search = _Search(file, trust, documents)
    places = [Replica((url,), site.storage_of(url)) for url in search.urls()]
    if file.endpoint is not None or not (file.urls or places):
        try:
            storage = named(file.lfn, file.endpoint, site, "in")
            places.append(Replica(urls_in(storage, file.scope, file.lfn, READ, "in"), storage.name))
        except StageError as error:
            search.refused.append(error)
    if not places:
        raise search.refused[0]
    for reason in search.refused:
        log.warning("a place of an input is left out", file=file.lfn, why=str(reason))
    return Found(_nearest_first(_each_once(places), site), search.size, search.checksum)


class _Search:
    """What the job's own URLs lead to; ``refused`` are those that cannot be used."""

    def __init__(self, file: InputFile, trust: Trust, documents: Documents) -> None:
        self._file, self._trust, self._documents = file, trust, documents
        self.size, self.checksum = file.size, file.checksum
        self.refused: list[StageError] = []

    def urls(self) -> list[Url]:
        """Those that may be used, in their order."""
        given = (url for url in self._file.urls if self._is_trusted(url))
        named = (self._named_by(url) if _is_document(url, self._file) else (url,) for url in given)
        return [url for several in named for url in several if url in self._file.urls or self._is_trusted(url)]

    def _is_trusted(self, url: Url) -> bool:
        if self._trust.allows(url):
            return True
        text = f"{self._file.lfn}: {url} is not below a directory of the setting input_roots"
        self.refused.append(UntrustedUrl(text))
        return False

    def _named_by(self, url: Url) -> tuple[Url, ...]:
        """The URLs in a metalink, which must not contradict what is known of the file."""
        content = self._documents[url]
        if isinstance(content, StageError):
            self.refused.append(content)
            return ()
        try:
            found = parse(content, self._file.lfn)
        except MetalinkError as error:
            self.refused.append(TransferFailed(f"{self._file.lfn}: metalink {plain(url)}: {error}"))
            return ()
        self._compare(found, url)
        return found.urls

    def _compare(self, found: Metalink, url: Url) -> None:
        """Raise Mismatch, or learn what was not known."""
        if found.size is not None and self.size is not None and found.size != self.size:
            raise Mismatch(f"{self._file.lfn}: it has {self.size} bytes, and {found.size} in the metalink {plain(url)}")
        self.size = found.size if self.size is None else self.size
        for one in found.checksums:
            if self.checksum is not None and one.kind == self.checksum.kind and one != self.checksum:
                kind = Md5Mismatch if one.kind == "md5" else Mismatch
                raise kind(f"{self._file.lfn}: its checksum is {self.checksum}, and {one} in the metalink {plain(url)}")
        if self.checksum is None:
            self.checksum = min(found.checksums, key=lambda one: one.kind, default=None)  # adler32 is the quick one


def _each_once(places: Iterable[Replica]) -> Iterator[Replica]:
    seen: set[Url] = set()
    for place in places:
        fresh = tuple(url for url in place.urls if url not in seen)
        seen.update(fresh)
        if fresh:
            yield Replica(fresh, place.endpoint)


def _nearest_first(places: Iterable[Replica], site: Site) -> tuple[Replica, ...]:
    """Our own file system, then the storages of the queue and of its site, then the rest as it was given."""
    ours = {*of_queue(site.queue, ("read_lan", "pr"))}
    ours |= {storage.name for storage in site.storages.values() if storage.site and storage.site == site.queue.site}

    def distance(place: Replica) -> int:
        if place.urls[0].scheme == "file":
            return 0
        return 1 if place.endpoint in ours else 2

    return tuple(sorted(places, key=distance))
