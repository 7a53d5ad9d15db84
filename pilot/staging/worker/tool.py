"""What a protocol's module offers to the lane: `copy.py` makes fetch, store and streaming of it.

The local disk is a protocol like the others: what differs is that its target appears only when it is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from pilot.staging.order import Around, Entry, Report, Side
from pilot.values.errors import Unreachable


class Stat(NamedTuple):
    """What a storage says of a file: its size in bytes and its checksum in hex, None where it does not say."""

    size: int | None
    checksum: str | None


class Said(NamedTuple):
    """What a storage says of a file when it has taken it: checksums in hex, None where it does not say.

    ``md5`` may be a mark that only looks like one: it proves something if it is right, and nothing if it is not.
    """

    adler32: str | None = None
    md5: str | None = None


NOTHING_KNOWN = Stat(None, None)
"""Of a file that nobody may look at, or that is not there: the storage does not say."""


class Unfinished(Unreachable):
    """Somebody is writing the file, or was until a moment ago: there is nothing whole in its place."""


class Source(NamedTuple):
    """An open file: ``size`` as announced, and its bytes, in memory that does not grow with it.

    ``again``: the chunks can be iterated a second time, from the beginning.
    """

    size: int | None
    chunks: Iterable[bytes]
    again: bool = False


class Content(Protocol):
    """The bytes for a target, and how many there will be (None: only their end will tell)."""

    @property
    def url(self) -> str:
        """Where they come from."""

    @property
    def size(self) -> int | None:
        """As announced by the source."""

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of up to 8 MiB, to be asked for when the target is open: from then on there may be half a file.

        Each iteration begins again, for a request that must be sent a second time; raises what reading raises.
        """


class Tool(Protocol):
    """A protocol. Every method raises a StageError, and nothing else, for what goes wrong."""

    def stat(self, side: Side, around: Around, kind: str | None, size: int | None = None, /) -> Stat:
        """Size, and the checksum of a kind (adler32, md5; None: not wanted) of a file that is there.

        ``size`` tells how long the server may need for that. Raises FileMissing.
        """

    def reading(
        self, side: Side, around: Around, report: Report, /, *, compared: bool
    ) -> AbstractContextManager[Source]:
        """An open source. ``compared``: a checksum of what comes will be compared with the catalogue's.

        Tells ``report`` of what people should know (a resumed download).
        """

    def writing(
        self, side: Side, content: Content, around: Around, /, *, overwrite: bool, old: Stat | None = None
    ) -> AbstractContextManager[Said]:
        """A target that has all of ``content`` when the block begins, and stays if the block ends well.

        Otherwise it is removed, unless the storage had refused to begin; or where there was an ``old`` file, and
        it may be there still. Raises Exists where something is there, as far as the protocol can tell, unless
        ``overwrite``.
        """

    def delete(self, side: Side, around: Around, /) -> None:
        """Remove a file, within a few seconds; none there is fine."""

    def renames(self, side: Side, new: str, around: Around, /) -> bool:
        """Whether `rename` may be expected to work for what will be at ``side``; nothing that is there changes.

        Raises Denied if it is not for us.
        """

    def rename(self, side: Side, new: str, around: Around, /) -> None:
        """Let a file take the place of the URL ``new``, and of what is there: the one or the other is there always."""

    def entries(self, side: Side, around: Around, /) -> Iterator[Entry]:
        """All regular files below a directory, recursively. Raises FileMissing; TransferFailed for a file."""
