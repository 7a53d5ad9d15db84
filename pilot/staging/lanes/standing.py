"""Standing: which storages this pod has seen fail, so that a dead one costs one connect limit and not one per file."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from pilot.staging.transfer import Hop, Route
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError, Stalled, Unreachable
from pilot.values.names import Url

_REST_S = 300.0
"""How long a storage comes last after a failure: longer than most restarts of a door, shorter than a job."""


def origin(url: str) -> str:
    """Host and port of a URL, in lower case; "" for a local file.

    >>> origin("root://me@EOS.example.org:1094//eos/f")
    'eos.example.org:1094'
    """
    return urlsplit(url).netloc.rpartition("@")[2].lower()


class Standing:
    """Remembers failures to reach a storage, for as long as the pilot lives or until a file comes from there."""

    def __init__(self) -> None:
        self._rests: dict[str, Deadline] = {}

    def failed(self, hop: Hop, error: StageError) -> None:
        """Note a failed copy: one that could not reach its storage, or waited for it in vain, speaks against it."""
        if isinstance(error, (Unreachable, Stalled)):
            for url in _asked(hop):
                self._rests[origin(url)] = Deadline.after(_REST_S)

    def worked(self, hop: Hop) -> None:
        """Note a copy that went well."""
        for url in (hop.source, hop.destination):
            self._rests.pop(origin(url), None)

    def sort(self, routes: Sequence[Route]) -> list[Route]:
        """The routes, those by way of a storage that has failed lately last."""
        return sorted(routes, key=lambda route: any(self._resting(hop) for hop in route.hops))

    def _resting(self, hop: Hop) -> bool:
        rests = (self._rests.get(origin(url)) for url in (hop.source, hop.destination))
        return any(rest is not None and not rest.expired() for rest in rests)


def _asked(hop: Hop) -> list[Url]:
    """The storages that a lane spoke to: in a third-party copy the one that does it."""
    if hop.third_party == "push":
        return [hop.source]
    if hop.third_party == "pull":
        return [hop.destination]
    return [url for url in (hop.source, hop.destination) if url.scheme != "file"]
