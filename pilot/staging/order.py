"""Order: what a lane is asked to move, and the words in which lane and parent speak of it.

Imported at the start of every lane, which has to be quick: no dataclasses (9 ms), no `pilot.values.names`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

WEB = frozenset({"http", "https", "dav", "davs"})
XROOT = frozenset({"root", "roots", "xroot"})

VERIFY_BYTES_PER_S = 50e6
"""The slowest server whose checksum we still wait for: it reads the whole file before it answers."""

_SECRET = re.compile(r"(?<=://)[^/\s@]*@|[?#]\S*|\bauthz=\S*", re.IGNORECASE)


class Order(NamedTuple):
    """One file to be moved. ``checksum`` is a kind and a value; ``link`` allows a hard link for a copy."""

    source: str
    destination: str
    size: int | None
    checksum: tuple[str, str] | None
    link: bool

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Order:
        """Read the parent's request."""
        kind, _, value = (message.get("checksum") or "").partition(":")
        return cls(
            source=message["source"],
            destination=message["destination"],
            size=message.get("size"),
            checksum=(kind, value) if kind else None,
            link=bool(message.get("link")),
        )


class Done(NamedTuple):
    """A file that was moved; ``verified`` says by what: ``checksum`` or ``size``."""

    size: int
    adler32: str
    verified: str


class Report(Protocol):
    """How a protocol tells the parent that it is alive."""

    def moved(self, total_bytes: int) -> None:
        """So many bytes of the file were moved until now."""

    def verifying(self, size: int) -> None:
        """All bytes are moved; from now on somebody reads the whole file again."""


class Around(NamedTuple):
    """What a lane inherits: limits in seconds, and where certificates and the proxy are (empty: none)."""

    connect_s: float
    idle_s: float
    keep_s: float
    ca_path: str
    client_certificate: str
    http_proxy: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Around:
        """Read the variables that the parent has set for this lane."""
        return cls(
            connect_s=float(environment.get("PILOT_LANE_CONNECT_S", "15")),
            idle_s=float(environment.get("PILOT_LANE_IDLE_S", "60")),
            keep_s=float(environment.get("PILOT_LANE_KEEP_S", "5")),
            ca_path=environment.get("PILOT_LANE_CA", ""),
            client_certificate=environment.get("PILOT_LANE_CERTIFICATE", ""),
            http_proxy=environment.get("PILOT_LANE_PROXY", ""),
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
