"""Names that cannot hold a bad value: LFN, scope, dataset, GUID, endpoint, URL, checksum.

Each is a `str` (a checksum: a pair of them) whose constructor raises ValueError with a reason that fits
behind the name of a field. Nothing that passed here can leave a directory, split a line or reach a shell:
faults.md 64, promise P7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self
from urllib.parse import unquote, urlsplit


def quoted(text: str, limit: int = 60) -> str:
    """Text for an error message: printable, and not longer than ``limit`` characters."""
    shown = ascii(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"


def is_whole(text: str) -> bool:
    """Whether a process can be given this text: it has no NUL, and no half of a surrogate pair, as JSON may have."""
    return re.search("[\x00\ud800-\udfff]", text) is None


class Name(str):
    """A plain name: letters, digits and a few marks; no path, no space, no shell character."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
    limit: ClassVar[int] = 255
    what: ClassVar[str] = "a plain name"

    def __new__(cls, text: str) -> Self:
        """Check and keep ``text``; ValueError if it is not such a name."""
        if len(text) > cls.limit:
            raise ValueError(f"{quoted(text)} is longer than {cls.limit} characters")
        if not cls.pattern.fullmatch(text) or ".." in text.split("/"):
            raise ValueError(f"{quoted(text)} is not {cls.what}")
        return super().__new__(cls, text)


class Lfn(Name):
    """A logical file name, which is also the file's name in the work directory."""

    __slots__ = ()
    pattern = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@:=-]*")
    what = "a plain file name"


class Scope(Name):
    """A Rucio scope such as ``user.alice``; its dots become directories, so none may stand alone."""

    __slots__ = ()
    pattern = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
    what = "a plain scope"


class Dataset(Name):
    """A dataset or container, with or without scope and trailing slash."""

    __slots__ = ()
    pattern = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:+@=/-]*")
    limit = 512
    what = "a plain dataset name"


class Guid(Name):
    """A GUID, or whatever else a catalogue uses as one."""

    __slots__ = ()
    pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
    limit = 64
    what = "a GUID"


class Endpoint(Name):
    """A storage endpoint (RSE)."""

    __slots__ = ()
    what = "a storage endpoint's name"


class EnvName(Name):
    """The name of an environment variable that a job may set: none that steers a loader, a shell or the pilot."""

    __slots__ = ()
    pattern = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
    what = "a name that a job may set"
    _reserved: ClassVar[re.Pattern[str]] = re.compile(
        r"(LD_|DYLD_|PANDA_|PILOT_|X509_|OIDC_|BEARER_|HARVESTER_).*|PATH|HOME|TMPDIR|ENV|BASH_ENV|IFS|SHELLOPTS|BASHOPTS"
    )

    def __new__(cls, text: str) -> Self:
        """ValueError also for the names that belong to the pilot, a loader or a shell."""
        name = super().__new__(cls, text)
        if cls._reserved.fullmatch(name):
            raise ValueError(f"{quoted(text)} is reserved")
        return name


def env_value(text: str) -> str:
    """A value of an environment variable: any printable text without line breaks; ValueError else."""
    if len(text) > 32768 or any((ord(char) < 32 and char != "\t") or char == "\x7f" for char in text):
        raise ValueError(f"{quoted(text)} holds a control character, or more than 32768 characters")
    if not is_whole(text):
        raise ValueError(f"{quoted(text)} holds half a character")
    return text


class Url(str):
    """An absolute URL of a file in a scheme that the lanes speak."""

    __slots__ = ()
    schemes: ClassVar[frozenset[str]] = frozenset({"root", "roots", "xroot", "http", "https", "dav", "davs", "file"})

    def __new__(cls, text: str) -> Self:
        """Check and keep ``text``; ValueError with the reason if it is no such URL."""
        if len(text) > 4096 or not re.fullmatch(r"[!-~]+", text) or re.search(r"[\"'`<>\\^{}|]", text):
            raise ValueError(f"{quoted(text)} is not a URL of printable ASCII")
        parts = urlsplit(text)
        if parts.scheme not in cls.schemes:
            raise ValueError(f"{quoted(text)}: unknown scheme (known: {', '.join(sorted(cls.schemes))})")
        decoded = unquote(parts.path)
        if ".." in decoded.split("/") or any(ord(char) < 32 for char in decoded) or not decoded.strip("/"):
            raise ValueError(f"{quoted(text)}: its path is empty, or leaves its directory")
        if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
            raise ValueError(f"{quoted(text)}: a file URL has no host")
        if parts.scheme != "file" and not parts.hostname:
            raise ValueError(f"{quoted(text)}: no host")
        try:
            parts.port  # noqa: B018 - reading it is the check
        except ValueError:
            raise ValueError(f"{quoted(text)}: its port is none") from None
        return super().__new__(cls, text)

    @property
    def scheme(self) -> str:
        """The scheme, in lower case."""
        return urlsplit(self).scheme

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(urlsplit(self).path)


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum: ``kind`` is adler32 (8 hex digits) or md5 (32), ``value`` in lower case."""

    kind: str
    value: str

    _kinds: ClassVar[dict[str, tuple[str, int]]] = {
        "ad": ("adler32", 8),
        "adler32": ("adler32", 8),
        "md": ("md5", 32),
        "md5": ("md5", 32),
    }

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Read ``ad:1a2b3c4d`` and its relatives; a bare value is told by its length.

        Raises ValueError for an unknown kind or a value of the wrong shape. The prefixes are those of
        panda-protocol.md 4.5 and trap 19.
        """
        prefix, colon, value = text.strip().partition(":")
        if not colon:
            prefix, value = ("md5" if len(prefix) == 32 else "adler32"), prefix
        known = cls._kinds.get(prefix.lower())
        if known is None:
            raise ValueError(f"{quoted(prefix)} is an unknown checksum kind (known: adler32, md5)")
        kind, digits = known
        value = value.strip().lower()
        if kind == "adler32":
            value = value.rjust(digits, "0")
        if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
            raise ValueError(f"{quoted(text)} is not {digits} hex digits of {kind}")
        return cls(kind, value)

    def __str__(self) -> str:
        """As it stands in a job file: ``adler32:1a2b3c4d``."""
        return f"{self.kind}:{self.value}"
