"""Order: what a lane is asked to move, and the words in which lane and parent speak of it.

Imported at the start of every lane, which has to be quick: no dataclasses (9 ms), no `pilot.values.names`.
"""

from __future__ import annotations

import functools
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

WEB = frozenset({"http", "https", "dav", "davs"})
XROOT = frozenset({"root", "roots", "xroot"})

VERIFY_BYTES_PER_S = 50e6
"""The slowest server whose checksum we still wait for: it reads the whole file before it answers."""

_SUFFIX = ".part"
_LONGEST_NAME = 255

_SECRET = re.compile(r"(?<=://)[^/\s@]*@|[?#]\S*|\bauthz=\S*", re.IGNORECASE)


class Side(NamedTuple):
    """One end of a copy: its URL, and what goes with requests to that origin: a bearer token, or a certificate.

    ``token`` is the text itself, ``certificate`` the path of a PEM file with certificate and key; "" for none.
    ``identity`` is device and inode of a local source, where another file in its place is not to be sent.
    """

    url: str
    token: str = ""
    certificate: str = ""
    identity: tuple[int, int] | None = None

    @property
    def scheme(self) -> str:
        """The scheme, in lower case."""
        return scheme_of(self.url)

    def __repr__(self) -> str:
        return f"Side({plain(self.url)})"  # without the token


class Order(NamedTuple):
    """One file to be moved. ``checksum`` is a kind and a value; ``link`` allows a hard link for a copy.

    ``third_party`` is pull or push where one storage shall copy to the other, else "". ``ours``: what is to be
    overwritten is the rest of a broken copy of this very file, and nothing that anybody would miss.
    """

    source: Side
    destination: Side
    size: int | None
    checksum: tuple[str, str] | None
    link: bool
    overwrite: bool
    third_party: str
    ours: bool = False

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Order:
        """Read the parent's request."""
        kind, _, value = (message.get("checksum") or "").partition(":")
        return cls(
            source=side(message, "source"),
            destination=side(message, "destination"),
            size=message.get("size"),
            checksum=(kind, value) if kind else None,
            link=bool(message.get("link")),
            overwrite=bool(message.get("overwrite")),
            third_party=message.get("third_party") or "",
            ours=bool(message.get("ours")),
        )

    @property
    def kind(self) -> str:
        """The kind of checksum that this file is compared by."""
        return self.checksum[0] if self.checksum else "adler32"


def side(message: Mapping[str, Any], which: str) -> Side:
    """One end of a request: its URL, and the credential that the message names for it, by path."""
    credential = (message.get("credential") or {}).get(which) or {}
    token, certificate = _read_token(credential.get("token_file", "")), credential.get("certificate", "")
    identity = message.get("identity") if which == "source" else None
    return Side(message[which], token, certificate, tuple(identity) if identity else None)


@functools.cache
def _read_token(path: str) -> str:
    """A token; its file never changes: a new token is a new file, and a new lane."""
    if not path:
        return ""
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - pathlib costs 7 ms
        return file.read().strip()


class Done(NamedTuple):
    """A file that was moved.

    ``verified`` says by what: ``checksum``, ``size``, or ``answer`` where nobody may look, and the storage's own word
    is all there is; ``there``: the target had the same bytes already.
    ``adler32`` is None only for a third-party copy between servers that keep no checksums.
    """

    size: int
    adler32: str | None
    verified: str
    there: bool = False


class Entry(NamedTuple):
    """A file below a directory: its path from there, with slashes, and its size in bytes (None: not told)."""

    path: str
    size: int | None


class Report(Protocol):
    """How a protocol tells the parent that it is alive."""

    def moved(self, total_bytes: int) -> None:
        """So many bytes of the file were moved until now."""

    def writing(self, url: str) -> None:
        """From now on there may be something at this place, not on this machine, that is to go if we are killed.

        "" for nothing: an old file there may still be whole.
        """

    def verifying(self, size: int) -> None:
        """All bytes are moved; from now on somebody reads the whole file again."""

    def note(self, text: str, **keys: object) -> None:
        """Something that belongs into the log: a resumed download, a checksum that nobody could tell."""


class Around(NamedTuple):
    """What a lane inherits: limits in seconds, and where certificates and the proxy are (empty: none).

    ``redirects``: patterns of hosts that outputs may be sent on to.
    """

    connect_s: float
    idle_s: float
    keep_s: float
    ca_path: str
    http_proxy: str
    redirects: tuple[str, ...] = ()

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Around:
        """Read the variables that the parent has set for this lane."""
        return cls(
            connect_s=float(environment.get("PILOT_LANE_CONNECT_S", "15")),
            idle_s=float(environment.get("PILOT_LANE_IDLE_S", "60")),
            keep_s=float(environment.get("PILOT_LANE_KEEP_S", "5")),
            ca_path=environment.get("PILOT_LANE_CA", ""),
            http_proxy=environment.get("PILOT_LANE_PROXY", ""),
            redirects=tuple(environment.get("PILOT_LANE_REDIRECTS", "").split()),
        )

    def verify_s(self, size: int) -> float:
        """How long a server may be silent while it computes the checksum of ``size`` bytes."""
        return verify_s(self.idle_s, size)


def verify_s(idle_s: float, size: int) -> float:
    """Seconds of silence to allow while ``size`` bytes are read again."""
    return idle_s + size / VERIFY_BYTES_PER_S


def plain(text: str, limit: int = 500) -> str:
    """Text for a message: one line, and no query, fragment or user name of any URL in it.

    >>> plain("https://me:pw@host/f?authz=secret: refused")
    'https://host/f refused'
    """
    return " ".join(_SECRET.sub("", text).split())[:limit]


def scheme_of(url: str) -> str:
    """The scheme, in lower case."""
    return url.partition(":")[0].lower()


def path_of(url: str) -> str:
    """The local path of a ``file:`` URL."""
    return unquote(urlsplit(url).path)


def partial_path(source: str, target: str) -> str:
    """Where a local target is until it is right: beside it, under a name that the file system takes."""
    folder, name = os.path.split(target)
    return os.path.join(folder, _partial_name(source, name))  # noqa: PTH118 - pathlib costs 7 ms


def partial_url(source: str, target: str) -> str:
    """Where a target of a storage is, if an old file keeps its place until the new one is right."""
    parts = urlsplit(target)
    folder, slash, name = parts.path.rpartition("/")
    return parts._replace(path=folder + slash + _partial_name(source, name)).geturl()


def _partial_name(source: str, name: str) -> str:
    """Of that target and that source: files of others are in nobody's way, and the next try finds what one has left."""
    suffix = f".{zlib.crc32(os.fsencode(source.partition('?')[0])):08x}{_SUFFIX}"
    if len(os.fsencode(name)) > _LONGEST_NAME - len(suffix):
        name = f"{zlib.crc32(os.fsencode(name)):08x}"
    return name + suffix
