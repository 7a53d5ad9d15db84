"""Transfer: one file to be moved, by one of several routes, and Moved: how it was really moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pilot.values.errors import Direction
from pilot.values.names import Checksum, Endpoint, Url

ThirdParty = Literal["pull", "push"]
"""Who does a third-party copy (HTTP-TPC): the destination pulls, or the source pushes."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One copy: by a lane, or between two storages that a lane asks for it.

    ``passing`` marks a destination that the file only passes through: it is deleted when the route has ended.
    """

    source: Url
    destination: Url
    third_party: ThirdParty | None = None
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One way for a file: its hops, walked in order, and the endpoint that the file comes from or goes to."""

    hops: tuple[Hop, ...]
    endpoint: Endpoint | None = None

    @property
    def source(self) -> Url:
        """Where it begins."""
        return self.hops[0].source

    @property
    def destination(self) -> Url:
        """Where it ends."""
        return self.hops[-1].destination


@dataclass(frozen=True, slots=True)
class Transfer:
    """One file to be moved.

    Args:
        name: what messages call the file (its LFN).
        direction: ``in`` towards the work directory, ``out`` away from it.
        routes: the ways to do it, the best first; the next one is taken when one has failed.
        size: what the catalogue says, in bytes; None if it does not say.
        checksum: likewise.
        overwrite: a destination that is there already is replaced. Otherwise one with the same bytes will do,
            and one with others fails the transfer (`Exists`).
        link: a hard link may stand for a copy of a local file that we could not change.
        identity: device and inode of a local source: another file that has its path by now is not sent.
    """

    name: str
    direction: Direction
    routes: tuple[Route, ...]
    size: int | None = None
    checksum: Checksum | None = None
    overwrite: bool = False
    link: bool = field(default=False)
    identity: tuple[int, int] | None = None

    @classmethod
    def plain(
        cls,
        name: str,
        direction: Direction,
        source: Url,
        destination: Url,
        size: int | None = None,
        checksum: Checksum | None = None,
        *,
        overwrite: bool = False,
    ) -> Transfer:
        """A transfer with one route of one hop."""
        routes = (Route((Hop(source, destination),)),)
        return cls(name, direction, routes, size, checksum, overwrite=overwrite, link=direction == "in")


@dataclass(frozen=True, slots=True)
class Moved:
    """A transfer that is done and verified: by which route, ``size`` in bytes, and the checksum of what was moved.

    ``checksum`` is the adler32; None only for a copy between two storages that both keep none. ``seconds`` is how
    long its last hop took; ``there``: the destination had the very bytes already. ``verified`` says by what: by its
    ``checksum``, its ``size``, or by the storage's ``answer`` to the copy, where that lets nobody look at what it has.
    """

    transfer: Transfer
    route: Route
    size: int
    checksum: Checksum | None
    seconds: float = 0.0
    there: bool = False
    verified: str = "checksum"
