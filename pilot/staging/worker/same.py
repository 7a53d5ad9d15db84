"""Whether both ends of a copy are one file: to be written over by itself, it would be lost.

Two spellings may mean one file, so what is compared is what they mean. A name of DNS that has two addresses, or a file
with two protocols, cannot be seen through here; but `replacing.py` keeps the old file until there is another whole one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from urllib.parse import unquote, urlsplit

from pilot.staging.order import WEB, XROOT, Order, path_of, plain, scheme_of
from pilot.values.errors import TransferFailed

_PORTS = {"http": 80, "dav": 80, "https": 443, "davs": 443}
_XROOT_PORT = 1094
_LOOPBACK = "localhost"


def refuse_same(order: Order) -> None:
    """Raise TransferFailed if the destination is the source."""
    source, target = order.source.url, order.destination.url
    if _same_local(source, target) or _same_stored(source, target):
        raise TransferFailed(f"{plain(source)} and {plain(target)} are the same file: nothing was done")


def _same_local(source: str, target: str) -> bool:
    """Whether both are names of one local file: by links of either kind, too."""
    if not scheme_of(source) == scheme_of(target) == "file":
        return False
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(path_of(source), path_of(target))  # noqa: PTH121 - pathlib costs 7 ms
    return False


def _same_stored(source: str, target: str) -> bool:
    meant = _meant(source)
    return meant is not None and meant == _meant(target)


def _meant(url: str) -> tuple[str, str, int, str] | None:
    """Protocol, host, port and path, each in one spelling; None for what is no storage.

    A query is what proves something, as a rule, and not a part of the name.
    """
    scheme, parts = scheme_of(url), urlsplit(url)
    path = parts.path.partition("?")[0]
    if scheme in WEB:
        return "web", _host(parts.hostname), parts.port or _PORTS[scheme], _path(unquote(path))
    if scheme in XROOT:  # decodes nothing
        return "root", _host(parts.hostname), parts.port or _XROOT_PORT, _path(path)
    return None


def _host(name: str | None) -> str:
    name = (name or "").lower().rstrip(".")
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name)
        name = _LOOPBACK if address.is_loopback else str(address)
    return name


def _path(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))
