"""Queue and storage data, in the shape of panda-protocol.md section 11, reduced to what the pilot uses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from pilot.values.decoding import DOCUMENT, decode_loosely
from pilot.values.errors import Garbled, SiteError
from pilot.values.names import Endpoint, Lfn, Scope, Url, is_whole, quoted

SCHEMES = ("root", "roots", "xroot", "davs", "https", "dav", "http", "file")

_MOST = 10**9  # of any number in queue data: 30 years, 950 TiB
_LONGEST, _LONGEST_NAME = 1 << 16, 255


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way into a storage: ``endpoint`` + ``path`` is the prefix of every file in it."""

    endpoint: str
    path: str

    @property
    def prefix(self) -> str:
        """The URL of the top directory, ending in one slash.

        A root URL keeps the double slash that makes its path absolute.
        """
        base = re.sub(r"(?<![:/])/+$", "", self.endpoint)
        slash = "//" if base.startswith(("root://", "roots://", "xroot://")) else "/"
        path = self.path.strip("/")
        return f"{base}{slash}{path}/" if path else f"{base}{slash}"

    @property
    def scheme(self) -> str:
        """The scheme, in lower case."""
        return self.endpoint.partition(":")[0].lower()

    @property
    def origin(self) -> str:
        """Its server as ``host[:port]``, in lower case; "" for files, and for what is no URL."""
        try:
            return urlsplit(self.endpoint).netloc.rpartition("@")[2].lower()
        except ValueError:
            return ""


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage endpoint: ``protocols`` by activity, in order of preference; ``site`` is where it stands."""

    name: Endpoint
    deterministic: bool
    protocols: Mapping[str, tuple[Protocol, ...]]
    site: str = ""

    def spoken(self, *activities: str) -> tuple[Protocol, ...]:
        """The protocols that a lane speaks: those of the first of ``activities`` first, each once."""
        named = (protocol for activity in activities for protocol in self.protocols.get(activity, ()))
        return tuple(dict.fromkeys(protocol for protocol in named if protocol.scheme in SCHEMES))

    def holds(self, url: str) -> bool:
        """Whether this is the URL of a file in it, by any of its protocols."""
        return any(url.startswith(protocol.prefix) for several in self.protocols.values() for protocol in several)


@dataclass(frozen=True, slots=True)
class Queue:
    """A PanDA queue (11.1). Times in seconds, sizes in MiB, 0 for no limit.

    ``catchall`` holds its free switches, ``params`` its named ones, as they came.
    """

    name: str
    resource: str
    site: str = ""
    online: bool = True
    timefloor_s: int = 0
    maxtime_s: int = 0
    maxwdir_mib: int = 0
    maxinputsize_mib: int = 0
    needs_cvmfs: bool = False
    catchall: frozenset[str] = frozenset()
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    astorages: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=lambda: MappingProxyType({}))
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def param(self, name: str) -> str:
        """A text among ``params``; "" where it is missing or NULL."""
        value = self.params.get(name)
        return "" if value in (None, "NULL") else str(value).strip()

    def allows(self, name: str) -> bool:
        """A switch among ``params``: true, or a word that says so."""
        return self.param(name).lower() in ("true", "on", "yes", "1")


@dataclass(frozen=True, slots=True)
class Site:
    """What the pilot knows about where it runs: its queue and all storages by name."""

    queue: Queue
    storages: Mapping[str, Storage]

    def origins(self) -> frozenset[str]:
        """The servers of all storages, as ``host[:port]`` in lower case: who may be sent a storage credential."""
        return frozenset(
            protocol.origin
            for storage in self.storages.values()
            for several in storage.protocols.values()
            for protocol in several
            if protocol.origin
        )

    def storage_of(self, url: str) -> Endpoint | None:
        """The storage that a URL points into; None if it is none of ours."""
        return next((storage.name for storage in self.storages.values() if storage.holds(url)), None)


def deterministic_path(scope: Scope, lfn: Lfn) -> str:
    """Where a deterministic storage keeps a file, below the protocol's prefix.

    >>> deterministic_path(Scope("user.alice"), Lfn("words.txt"))
    'user/alice/e8/86/words.txt'
    """
    digest = hashlib.md5(f"{scope}:{lfn}".encode(), usedforsecurity=False).hexdigest()
    return "/".join([*scope.split("."), digest[0:2], digest[2:4], lfn])


def file_url(protocol: Protocol, scope: Scope, lfn: Lfn) -> Url:
    """The URL of a file in a deterministic storage; ValueError if the protocol's parts make no URL."""
    return Url(protocol.prefix + deterministic_path(scope, lfn))


def parse_queue(name: str, raw: object) -> Queue:
    """Read queue data: a flat object, or ``{name: object}``. Raises SiteError that names the field."""
    if isinstance(raw, dict) and isinstance(raw.get(name), dict):
        raw = raw[name]
    if not isinstance(raw, dict) or raw.get("error"):
        raise SiteError(f"queue data of {name}: not an object, or an error: {quoted(str(raw), 200)}")
    nickname, resource = _name(raw, "nickname"), _name(raw, "panda_resource")
    return Queue(
        name=nickname or name,
        resource=resource or nickname or name,
        site=_name(raw, "atlas_site") or _name(raw, "gstat") or resource or name,
        online=_text(raw, "status").lower() != "offline" and (_text(raw, "state") or "ACTIVE").upper() == "ACTIVE",
        timefloor_s=60 * _number(raw, "timefloor"),
        maxtime_s=_number(raw, "maxtime"),
        maxwdir_mib=_number(raw, "maxwdir"),
        maxinputsize_mib=_number(raw, "maxinputsize"),
        needs_cvmfs=_text(raw, "is_cvmfs").lower() == "true",
        catchall=frozenset(_text(raw, "catchall").replace(",", " ").split()),
        environ=MappingProxyType(_environ(_text(raw, "environ"))),
        astorages=MappingProxyType({str(key): _endpoints(names) for key, names in _mapping(raw, "astorages").items()}),
        params=MappingProxyType(dict(_mapping(raw, "params"))),
    )


_OVERWRITABLE = {
    "timefloor": "timefloor_s",
    "maxtime": "maxtime_s",
    "maxwdir": "maxwdir_mib",
    "maxinputsize": "maxinputsize_mib",
    "environ": "environ",
    "catchall": "catchall",
    "astorages": "astorages",
    "params": "params",
}


def overwritten(site: Site, queue: Mapping[str, Any], storages: Mapping[str, Any]) -> Site:
    """The site as one job wants to see it (``--overwriteQueueData`` in its parameters). Raises SiteError.

    Keys of the queue that mean nothing here change nothing, as keys of queue data do.
    """
    fresh = parse_queue(site.queue.name, dict(queue))
    changes = {field: getattr(fresh, field) for key, field in _OVERWRITABLE.items() if key in queue}
    return Site(replace(site.queue, **changes), {**site.storages, **parse_storages(dict(storages))})


def parse_storages(raw: object) -> dict[str, Storage]:
    """Read storage data, ``{name: object}``. Raises SiteError that names the storage."""
    storages, unreadable = readable_storages(raw)
    if unreadable:
        raise SiteError(unreadable[0])
    return storages


def readable_storages(raw: object) -> tuple[dict[str, Storage], list[str]]:
    """The same, and what is wrong with the entries that are left out. Raises SiteError for what is no object.

    The document is everybody's: an entry of another site that cannot be read is no reason to run no jobs here.
    """
    if not isinstance(raw, dict):
        raise SiteError("storage data: not an object")
    storages, unreadable = {}, []
    for name, entry in raw.items():
        try:
            storages[name] = _parse_storage(name, entry)
        except SiteError as error:
            unreadable.append(str(error))
    return storages, unreadable


def _parse_storage(name: str, entry: Any) -> Storage:
    try:
        protocols = {
            str(activity): tuple(Protocol(_part(one, "endpoint"), _part(one, "path")) for one in _list(several))
            for activity, several in _mapping(entry, "arprotocols").items()
        }
        return Storage(
            name=Endpoint(name),
            deterministic=_text(entry, "is_deterministic").lower() not in ("false", "0"),
            protocols=MappingProxyType(protocols),
            site=_text(entry, "site"),
        )
    except (AttributeError, KeyError, TypeError, ValueError, SiteError) as error:
        why = (
            str(error).removeprefix("queue data: ")
            if isinstance(error, SiteError)
            else f"{type(error).__name__}: {error}"
        )
        raise SiteError(f"storage data of {quoted(name)}: {why}") from None


def _part(protocol: Any, key: str) -> str:
    value = protocol[key]
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise TypeError(f"{key} is no text, or too long")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    return list(value)


def _endpoints(names: Any) -> tuple[Endpoint, ...]:
    try:
        return tuple(Endpoint(name) for name in _list(names))
    except (TypeError, ValueError) as error:
        raise SiteError(f"queue data: astorages: {error}") from None


def _text(raw: Mapping[str, Any], key: str) -> str:
    """A text, or a number or switch as text; "" where it is missing or NULL."""
    value = raw.get(key)
    if value in (None, "NULL"):
        return ""
    if not isinstance(value, str | int | float) or len(str(value)) > _LONGEST:
        raise SiteError(f"queue data: {key}: {quoted(str(value))} is not a text, or too long")
    return str(value)


def _name(raw: Mapping[str, Any], key: str) -> str:
    """The same for a name, which may become part of a path, and of a line."""
    text = _text(raw, key)
    if not text.isprintable() or "/" in text or len(text) > _LONGEST_NAME:
        raise SiteError(f"queue data: {key}: {quoted(text)} is not a name")
    return text


def _number(raw: Mapping[str, Any], key: str) -> int:
    """A number that may be a string; missing, None and "NULL" are 0, and what is beyond all measure the most."""
    value = raw.get(key)
    if value in (None, "", "NULL"):
        return 0
    try:
        return min(_MOST, max(0, int(float(value))))
    except (TypeError, ValueError, OverflowError):
        raise SiteError(f"queue data: {key}: {quoted(str(value))} is not a number") from None


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping that may be a JSON or Python literal in a string (panda-protocol.md 11.1, last line)."""
    value = raw.get(key)
    if isinstance(value, str) and value not in ("", "NULL"):
        try:
            value = decode_loosely(value, DOCUMENT)
        except Garbled:
            value = None
    return value if isinstance(value, dict) else {}


def _environ(text: str) -> dict[str, str]:
    """``A=1 B=2``, with or without ``export``, commas or semicolons between."""
    if not is_whole(text):
        raise SiteError("queue data: environ: holds a NUL character, or half a character")
    words = text.replace("export ", " ").replace(";", " ").replace(",", " ").split()
    return {key: value for key, equals, value in (word.partition("=") for word in words) if equals and key}
