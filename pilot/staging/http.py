"""Moves between http, https, dav or davs URLs and local files, by `requests`.

`requests` follows redirects in the way of browsers: a PUT that is answered by 302 would become a GET. So we
follow them ourselves, with the method and the body kept. No credential is sent yet; one that comes must
stay with the origin that it is for.
"""

from __future__ import annotations

import contextlib
import functools
import re
import ssl
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter

from pilot.staging.checksum import Digest
from pilot.staging.order import Around, Done, Order, Report, path_of, plain, scheme_of
from pilot.staging.partial import CHUNK, Partial, local_errors, open_regular, size_of
from pilot.staging.remote import DELETE_S, deleted_on_error, verify
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    Mismatch,
    NoSpace,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)

_REDIRECTS = 5
_MOVED = (301, 302, 307, 308)
_SEE_OTHER = 303
_ASK_DIGEST = {"Want-Digest": "adler32"}
_PLAIN_BYTES = {"Accept-Encoding": "identity"}

_STATUS: dict[int, type[StageError]] = {
    401: Denied,
    403: Denied,
    404: FileMissing,
    409: Exists,
    410: FileMissing,
    412: Exists,
    413: NoSpace,
    507: NoSpace,
}


def fetch(order: Order, report: Report, around: Around) -> Done:
    """Download, comparing with Content-Length and the catalogue, or with the server's digest where that has none."""
    digest = Digest.of(order)
    with _errors(order.source), _answer("GET", order.source, around, headers=_PLAIN_BYTES) as response:
        announced = _announced(response)
        if None not in (announced, order.size) and announced != order.size:
            raise Mismatch(f"{plain(order.source)}: it has {announced} bytes, the catalogue says {order.size}")
        with Partial(path_of(order.destination)) as part:
            part.write(b"")
            # The raw stream: a server that labels a .gz file as an encoding would have it unpacked here.
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                digest.update(chunk)
                _bound(digest, order)
                part.write(chunk)
                report.moved(digest.size)
            if announced is not None and announced != digest.size:
                raise Mismatch(f"{plain(order.source)}: {digest.size} of {announced} announced bytes came")
            done = digest.check(order, order.source)
            if order.checksum is None:
                report.verifying(digest.size)
                done = digest.agree(order.source, *_promised(order.source, digest.size, around))
            part.settle()
    return done


def store(order: Order, report: Report, around: Around) -> Done:
    """Upload, then ask the server for size and checksum of what it has; what went wrong is deleted there."""
    url = order.destination
    with open_regular(path_of(order.source)) as file:
        size, digest = size_of(file), Digest.of(order)
        body = _Body(file, size, digest, report)
        with deleted_on_error(lambda: delete(url, around)):
            with _errors(url), _answer("PUT", url, around, body=body):
                pass  # what servers write into the body is of no use (xrootd: a smiley)
            digest.check(order, order.source)
            report.verifying(size)
            return verify(url, digest, lambda: _stored(url, size, around))


def delete(url: str, around: Around) -> None:
    """Remove a file from storage, within a few seconds."""
    brief = around._replace(connect_s=min(DELETE_S, around.connect_s), idle_s=min(DELETE_S, around.idle_s))
    with contextlib.suppress(FileMissing), _errors(url), _answer("DELETE", url, brief):
        pass


class _Body:
    """A file as the body of a PUT: its length is sent ahead, and its checksum is taken as it goes."""

    def __init__(self, file: BinaryIO, size: int, digest: Digest, report: Report) -> None:
        self._file = file
        self._size = size
        self._digest = digest
        self._report = report

    def __len__(self) -> int:
        return self._size

    def read(self, count: int = CHUNK) -> bytes:
        """The next bytes; never more than were announced, even if the file grows."""
        left = self._size - self._digest.size
        with local_errors("the output"):
            chunk = self._file.read(min(count, left))
        if left and not chunk:
            raise Mismatch(f"the output lost {left} bytes while it was sent")
        self._digest.update(chunk)
        self._report.moved(self._digest.size)
        return chunk

    def rewind(self) -> None:
        """Begin again: the request was sent elsewhere."""
        with local_errors("the output"):
            self._file.seek(0)
        self._digest.reset()


class _Adapter(HTTPAdapter):
    """Sends bodies in pieces of 1 MiB: three times as fast as in requests' own 16 KiB."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, blocksize=CHUNK, **kwargs)


@functools.cache
def _session(ca_path: str, certificate: str, proxy: str) -> requests.Session:
    """The lane's kept connections."""
    session = requests.Session()
    session.trust_env = False  # else REQUESTS_CA_BUNDLE wins over `verify`, without a word
    session.verify = ca_path or True
    session.cert = certificate or None
    session.proxies = {"http": proxy, "https": proxy} if proxy else {}
    for prefix in ("http://", "https://"):
        session.mount(prefix, _Adapter(max_retries=0))
    return session


@contextlib.contextmanager
def _answer(
    method: str, url: str, around: Around, *, headers: dict[str, str] | None = None, body: _Body | None = None
) -> Iterator[requests.Response]:
    """The last answer of a chain of redirects; a StageError unless it says that it worked."""
    session = _session(around.ca_path, around.client_certificate, around.http_proxy)
    here = _web(url)
    for _ in range(_REDIRECTS + 1):
        response = session.request(
            method,
            here,
            headers=headers,
            data=body or None,  # a body of no bytes would be sent in chunks, without a length
            timeout=(around.connect_s, around.idle_s),
            allow_redirects=False,
            stream=True,
        )
        with response:
            target = _redirected(response, method, here)
            if target is None:
                _check_status(response, url)
                yield response
                return
        here = target
        if body is not None:
            body.rewind()
    raise TransferFailed(f"{plain(url)}: more than {_REDIRECTS} redirects")


def _redirected(response: requests.Response, method: str, here: str) -> str | None:
    """Where a redirect leads; None for any other answer."""
    location = response.headers.get("Location", "")
    follows = response.status_code in _MOVED or (response.status_code == _SEE_OTHER and method in ("GET", "HEAD"))
    if not location or not follows:
        return None
    target = _web(urljoin(here, location))
    if scheme_of(target) not in ("http", "https") or (scheme_of(here), scheme_of(target)) == ("https", "http"):
        raise TransferFailed(f"{plain(here)}: it redirects to {plain(target)}, which is not followed")
    return target


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if response.ok and status < 300:
        return
    kind = _STATUS.get(status, Unreachable if status >= 500 else TransferFailed)
    raise kind(f"{plain(url)}: HTTP {status} {response.reason or ''}")


def _promised(url: str, size: int, around: Around) -> tuple[int | None, str | None]:
    """Size and adler32 of a file that was read just now, or nothing if the server does not tell them.

    Not asked for with the GET: xrootd answers that with 500 for a file that is missing or closed to us.
    """
    try:
        return _stored(url, size, around)
    except StageError:
        return None, None


def _stored(url: str, size: int, around: Around) -> tuple[int | None, str | None]:
    """Size and adler32 of what the server has; it may read all of it before it answers."""
    patient = around._replace(idle_s=around.verify_s(size))
    with _errors(url), _answer("HEAD", url, patient, headers=_PLAIN_BYTES | _ASK_DIGEST) as response:
        return _announced(response), _told(response)


def _announced(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _told(response: requests.Response) -> str | None:
    """The adler32 of a Digest header (RFC 3230), in 8 digits; None if there is none that can be read."""
    found = re.search(r"(?i)\badler32=([0-9a-f]{1,8})(?![^,;\s])", response.headers.get("Digest", ""))
    return found[1].lower().rjust(8, "0") if found else None


def _bound(digest: Digest, order: Order) -> None:
    if order.size is not None and digest.size > order.size:  # at once, not when the disk is full
        raise Mismatch(f"{plain(order.source)}: it has more than the {order.size} bytes of the catalogue")


def _web(url: str) -> str:
    """The URL as `requests` knows it: dav is http, davs is https."""
    scheme, colon, rest = url.partition(":")
    return {"dav": "http", "davs": "https"}.get(scheme.lower(), scheme) + colon + rest


@contextlib.contextmanager
def _errors(url: str) -> Iterator[None]:
    """Raise what the libraries raise as the StageError that it means."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _meaning(url, error) from error


def _meaning(url: str, error: Exception) -> StageError:
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:  # wrapped up to four times
        cause = inner
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransferFailed(f"{plain(url)}: its certificate is not accepted: {cause.verify_message}")
    if isinstance(cause, TimeoutError):
        return Stalled(f"{plain(url)}: no answer in time")
    return Unreachable(plain(f"{plain(url)}: {type(cause).__name__}: {cause}"))
