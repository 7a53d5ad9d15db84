"""HTTP for the lanes, by urllib3: kept connections, redirects, credentials, and what answers and errors mean.

urllib3 would follow a redirect in the way of browsers, with every header and a PUT as a GET. So we follow them
ourselves: method and body are kept, and what proves who we are stays with the origin that it is for. What changes
something stays there as well: an output goes where its destination says, or where the settings allow it to be sent on.
"""

from __future__ import annotations

import contextlib
import fnmatch
import http.client
import re
import ssl
import string
import time
from collections.abc import Iterable, Iterator, Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import urllib3

from pilot import __version__
from pilot.staging.order import Around, Side, plain, scheme_of
from pilot.staging.worker.web.pool import pool
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    NoSpace,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)

Response = urllib3.BaseHTTPResponse

_REDIRECTS = 5
_MOVED = (301, 302, 307, 308)
_SEE_OTHER = 303
_READS = ("GET", "HEAD", "PROPFIND")
_REPEATABLE = (*_READS, "PUT", "DELETE", "MKCOL")
_LITTLE = 1 << 16
_LONGEST_PAUSE_S = 300.0
_PORTS = {"http": 80, "https": 443}

_STATUS: dict[int, type[StageError]] = {
    401: Denied,
    403: Denied,
    404: FileMissing,
    408: Unreachable,
    410: FileMissing,
    413: NoSpace,
    429: Unreachable,
    501: TransferFailed,
    507: NoSpace,
}
_CONFLICTS = (409, 412)


def send(
    method: str,
    side: Side,
    around: Around,
    *,
    headers: Mapping[str, str] | None = None,
    private: Mapping[str, str] | None = None,
    body: Iterable[bytes | memoryview] | None = None,
    idle_s: float | None = None,
) -> Response:
    """The last answer of a chain of redirects, whatever its status; its body is unread, and ``url`` is the last.

    ``private``: headers for the side's own origin only, as its token and its certificate are. ``idle_s``: how
    long the answer may be silent, if not as long as always.
    """
    first = here = address(side.url)
    timeout = urllib3.Timeout(connect=around.connect_s, read=idle_s or around.idle_s)
    for _ in range(_REDIRECTS + 1):
        ours = _origin(here) == _origin(first)
        sent = {"User-Agent": f"panda-pod-pilot/{__version__}"} | dict(headers or {})
        if ours:
            sent |= _proof(side) | dict(private or {})
        connections = pool(around, side.certificate if ours else "")
        with errors(side.url, method):
            response = _asked(connections, method, here, headers=sent, body=body, timeout=timeout)
        target = redirected(response, method, here)
        if target is None:
            response.url = here
            return response
        finish(response)
        _check_origin(method, first, target, around)
        here = target
    raise TransferFailed(f"{plain(side.url)}: more than {_REDIRECTS} redirects")


def _asked(connections: urllib3.PoolManager, method: str, url: str, **more: Any) -> Response:
    """One request. A kept connection may have been closed by the server meanwhile: then a new one is made, once."""
    more |= {"retries": False, "redirect": False, "preload_content": False}
    more |= {"decode_content": False}  # a server that labels a .gz file as an encoding would have it unpacked
    server = connections.connection_from_url(url)
    made = server.num_connections
    try:
        return connections.urlopen(method, url, **more)
    except urllib3.exceptions.ProtocolError:
        was_new = server.num_connections > made
        if was_new or method not in _REPEATABLE or getattr(more["body"], "begun", False):
            raise
        return connections.urlopen(method, url, **more)


@contextlib.contextmanager
def answer(method: str, side: Side, around: Around, **more: Any) -> Iterator[Response]:
    """An answer to `send` that says that it worked; a StageError for any other."""
    response = send(method, side, around, **more)
    try:
        if (error := complaint(response, side.url, method)) is not None:
            raise error
        with errors(side.url, method):
            yield response
    finally:
        finish(response)


def finish(response: Response) -> None:
    """Read the rest if it is little, so that the connection can be used again; else close it."""
    left = _LITTLE
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        while left > 0 and (data := response.read(left)):
            left -= len(data)
    response.close()


def complaint(response: Response, url: str, method: str) -> StageError | None:
    """What a status means; None for one of success."""
    status = response.status
    if 200 <= status < 300:
        return None
    kind = _STATUS.get(status, Unreachable if status >= 500 else TransferFailed)
    if status in _CONFLICTS and method not in (*_READS, "DELETE"):
        kind = Exists
    error = kind(f"{plain(url)}: HTTP {status} {plain(response.reason or '', 100)}".rstrip())
    if kind is Unreachable:
        error.pause_s = pause_s(response.headers.get("Retry-After", ""))
    return error


def pause_s(retry_after: str, now: float | None = None) -> float:
    """The seconds of a Retry-After header, which is a number or a date; 300 at most, 0 if it cannot be read."""
    text = retry_after.strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text[:20]), _LONGEST_PAUSE_S)
    moment = unix_time(text)
    if moment is None:
        return 0.0
    return min(max(0.0, moment - (time.time() if now is None else now)), _LONGEST_PAUSE_S)


def unix_time(date: str) -> float | None:
    """An HTTP date; None if it cannot be read."""
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        parsed = parsedate_tz(date)
        return None if parsed is None else mktime_tz(parsed)
    return None


def redirected(response: Response, method: str, here: str) -> str | None:
    """Where a redirect leads; None for any other answer."""
    location = response.headers.get("Location", "")
    follows = response.status in _MOVED or (response.status == _SEE_OTHER and method in _READS)
    if not location or not follows:
        return None
    target = _joined(here, location)
    if scheme_of(target) not in _PORTS or (scheme_of(here), scheme_of(target)) == ("https", "http"):
        raise TransferFailed(f"{plain(here)}: it redirects to {plain(target)}, which is not followed")
    return target


def _joined(here: str, location: str) -> str:
    """Where a Location leads, in ASCII. Servers send UTF-8 there, and http.client takes all bytes for Latin-1."""
    with contextlib.suppress(UnicodeEncodeError):
        location = quote(location.strip().encode("latin-1"), safe=string.punctuation)
    try:
        parts = urlsplit(address(urljoin(here, location)))
        if "%" in parts.netloc and "[" not in parts.netloc:
            host = unquote(parts.hostname or "", errors="strict").encode("idna").decode("ascii")
            parts = parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}")
        _origin(parts.geturl())
    except ValueError as error:
        raise TransferFailed(f"{plain(here)}: it redirects to what is no address: {error}") from None
    return parts.geturl()


def _check_origin(method: str, first: str, target: str, around: Around) -> None:
    """Raise TransferFailed for a request that changes something, and would be sent on to another origin."""
    if method in _READS or _origin(target) == _origin(first):
        return
    _, host, port = _origin(target)
    allowed = (fnmatch.fnmatchcase(name, pattern) for name in (host, f"{host}:{port}") for pattern in around.redirects)
    if not any(allowed):
        raise TransferFailed(
            f"{plain(first)}: it sends {method} on to {host}:{port}, which is another origin: outputs go there only if "
            f"the setting output_redirects names it"
        )


def address(url: str) -> str:
    """The URL as HTTP knows it: dav is http, davs is https."""
    scheme, colon, rest = url.partition(":")
    return {"dav": "http", "davs": "https"}.get(scheme.lower(), scheme.lower()) + colon + rest


@contextlib.contextmanager
def errors(url: str, method: str = "") -> Iterator[None]:
    """Raise what the libraries raise as the StageError that it means."""
    try:
        yield
    except urllib3.exceptions.HTTPError as error:
        raise _meaning(url, method, error) from error


def _meaning(url: str, method: str, error: Exception) -> StageError:
    cause: BaseException = error
    while isinstance(cause, urllib3.exceptions.HTTPError) and (inner := cause.__cause__ or cause.__context__):
        cause = inner  # wrapped up to four times; below there is what led to it, or an older error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransferFailed(f"{plain(url)}: its certificate is not accepted: {cause.verify_message}")
    if isinstance(cause, TimeoutError):
        return Stalled(f"{plain(url)}: no answer in time")
    text = plain(f"{plain(url)}: {type(cause).__name__}: {cause}")
    if method == "PUT" and isinstance(cause, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        text += " (xrootd hangs up in this way when its disk is full)"
    return Unreachable(text)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def bearer(token: str) -> str:
    """The value of an Authorization header. The library would quote a token with line breaks in its error."""
    if not token.isprintable() or " " in token:
        raise Denied("a token for a storage is more than one word")
    return f"Bearer {token}"


def _proof(side: Side) -> dict[str, str]:
    return {"Authorization": bearer(side.token)} if side.token else {}
