"""Transfer: one file to be moved, and Moved: what was really moved."""

from __future__ import annotations

from dataclasses import dataclass

from pilot.values.errors import Direction
from pilot.values.names import Checksum, Url


@dataclass(frozen=True, slots=True)
class Transfer:
    """One file to be moved. One side is a ``file:`` URL in the work directory, unless storage is local too.

    Args:
        name: what messages call the file (its LFN).
        direction: ``in`` towards the work directory, ``out`` away from it.
        source: where it is.
        destination: where it shall be.
        size: what the catalogue says, in bytes; None if it does not say.
        checksum: likewise.
    """

    name: str
    direction: Direction
    source: Url
    destination: Url
    size: int | None = None
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A transfer that is done and verified: ``size`` in bytes and the adler32 of what was moved."""

    transfer: Transfer
    size: int
    checksum: Checksum
