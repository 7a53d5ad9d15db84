"""Places: where a storage keeps a file, as URLs, and which two URLs a third-party copy can be asked between."""

from __future__ import annotations

from collections.abc import Sequence

from pilot.staging.order import WEB, XROOT
from pilot.values.errors import Direction, NonDeterministic, NoStorage
from pilot.values.names import Endpoint, Lfn, Scope, Url
from pilot.values.site import Queue, Site, Storage, file_url

READ = ("read_lan", "read_wan", "pr", "r", "default")
WRITE = ("write_lan", "write_wan", "pw", "w", "default")
WRITE_LOG = ("pl", *WRITE)

_ENCRYPTED = frozenset({"https", "davs"})


def named(lfn: str, endpoint: Endpoint | None, site: Site, direction: Direction) -> Storage:
    """The storage of this name. Raises NoStorage."""
    if endpoint is None:
        raise NoStorage(f"{lfn}: neither the job nor the queue names a storage endpoint", direction)
    storage = site.storages.get(endpoint)
    if storage is None:
        raise NoStorage(f"{lfn}: the storage data have no endpoint {endpoint}", direction)
    return storage


def near(lfn: str, name: str, key: str, site: Site, direction: Direction) -> Storage:
    """The storage that files pass by; ``key`` is the setting that names it. Raises NoStorage."""
    storage = site.storages.get(name)
    if storage is None:
        raise NoStorage(f"{lfn}: {key} names {name[:100]}, and the storage data have no such endpoint", direction)
    return storage


def urls_in(
    storage: Storage, scope: Scope | None, lfn: Lfn, activities: tuple[str, ...], direction: Direction
) -> tuple[Url, ...]:
    """The file in a storage by each protocol that we speak, the best first. Raises NoStorage, NonDeterministic."""
    if not storage.deterministic or scope is None:
        what = "has no scope" if scope is None else f"{storage.name} is not deterministic"
        raise NonDeterministic(f"{lfn}: its path cannot be computed: {what}", direction)
    protocols = storage.spoken(*activities)
    if not protocols:
        raise NoStorage(f"{lfn}: {storage.name} has no protocol for {activities[0]} that we speak", direction)
    try:
        return tuple(dict.fromkeys(file_url(protocol, scope, lfn) for protocol in protocols))
    except ValueError as error:
        raise NoStorage(f"{lfn}: {storage.name}: {error}", direction) from None


def of_queue(queue: Queue, activities: tuple[str, ...]) -> tuple[Endpoint, ...]:
    """The queue's own storages for these activities, each once."""
    return tuple(dict.fromkeys(name for activity in activities for name in queue.astorages.get(activity, ())))


def third_party_pair(sources: Sequence[Url], targets: Sequence[Url]) -> tuple[Url, Url] | None:
    """The two URLs that one storage can be asked to copy between; None if they have no family in common.

    Encrypted HTTP comes first: there the credential that is delegated stays between the two. Then root, then
    what anybody on the line can read.
    """
    pairs = [
        (source, target)
        for source in sources
        for target in targets
        if {source.scheme, target.scheme} <= WEB or {source.scheme, target.scheme} <= XROOT
    ]
    return min(pairs, key=lambda pair: max(map(_rank, pair)), default=None)


def _rank(url: Url) -> int:
    if url.scheme in _ENCRYPTED:
        return 0
    return 1 if url.scheme in XROOT else 2
