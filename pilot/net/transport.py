"""HTTP calls to one server, each with limits to connect, to stay idle, and in all.

One keep-alive session, used by one thread at a time. Redirects are not followed, the environment is not
read (``trust_env``), the server's certificate is verified. `interrupt` may be called from another thread:
it shuts the socket down, so that a call in flight ends at once (`watch.py`).
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3

from pilot.net.watch import Adapter, Watch
from pilot.values.errors import CredentialError, ServerGarbled, ServerUnavailable

_PIECE = 1 << 16
_MOST_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take (seconds), and how much it may answer (bytes)."""

    connect_s: float = 15.0
    idle_s: float = 60.0
    total_s: float = 120.0
    most_bytes: int = _MOST_TEXT


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: any status, the whole body, headers by their names in whatever case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport:
    """One server's HTTP, over one kept connection."""

    def __init__(self, base: str, *, verify: str | bool = True, certificate: str = "", proxy: str = "") -> None:
        """Prepare; nothing is sent yet.

        Args:
            base: scheme, host and port, and a path prefix if there is one.
            verify: a CA bundle or directory; True for the system's.
            certificate: a PEM file with certificate and key, or nothing.
            proxy: URL of an HTTP proxy, or nothing.
        """
        self._base = base.rstrip("/")
        self._watch = Watch()
        self._verify = verify
        self._session = _session(self._watch, certificate, proxy)
        self._anonymous = _session(self._watch, "", proxy) if certificate else self._session

    def call(
        self,
        method: str,
        url: str,
        *,
        body: bytes | BinaryIO | RawIOBase | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        limits: Limits,
        target: Path | None = None,
        anonymous: bool = False,
    ) -> Answer:
        """Send one request and read its answer, whatever its status.

        ``url`` is absolute, or a path below the base. A ``body`` that is an open file is sent piece by piece. A good
        answer goes into the file ``target``, where one is named, as it is; what does not come whole is removed.
        ``anonymous``: our certificate is not shown.
        Raises ServerUnavailable when no answer came whole, ServerGarbled when it is larger than
        ``limits.most_bytes``, CredentialError when the server refuses our certificate, OSError for ``target``.
        """
        self._watch.begin(limits.idle_s, limits.total_s)
        where = url if "://" in url else self._base + url
        session = self._anonymous if anonymous else self._session
        plain = {"Accept-Encoding": "identity"} if target is not None else {}
        try:
            with session.request(
                method,
                where,
                data=body,
                params=query,
                headers={**plain, **(headers or {})},
                timeout=(limits.connect_s, limits.idle_s),
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                return Answer(response.status_code, _content(response, target, limits.most_bytes), response.headers)
        except _DiskError as error:
            raise error.reason from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            raise _meaning(f"{method} {where}", error, self._watch.sent) from error
        except (OSError, ValueError) as error:  # ValueError: a TLS socket that was shut down under a read
            raise ServerUnavailable(f"{method} {where}: {_reason(error)}", maybe_done=self._watch.sent) from error
        finally:
            self._watch.end()

    def interrupt(self) -> None:
        """End the call in flight, if there is one: it raises ServerUnavailable in its own thread."""
        self._watch.interrupt()

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()
        self._anonymous.close()


class _DiskError(Exception):
    """The file of a download cannot be written: that is no word of the server's."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _session(watch: Watch, certificate: str, proxy: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.proxies = {"http": proxy, "https": proxy} if proxy else {}
    session.cert = certificate or None
    adapter = Adapter(watch)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _content(response: requests.Response, target: Path | None, most: int) -> bytes:
    if target is None or response.status_code != requests.codes.ok:
        return _read(response, most if target is None else _MOST_TEXT)
    try:
        _keep(response, target, most)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return b""


def _read(response: requests.Response, most: int) -> bytes:
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > most:
            raise _too_large(response, most)
    return bytes(body)


def _keep(response: requests.Response, target: Path, most: int) -> None:
    """Byte by byte as it comes: a tarball's own compression may be called an encoding."""
    if int(response.headers.get("Content-Length", "0")) > most:
        raise _too_large(response, most)
    size = 0
    with _disk():
        file = target.open("wb")
    try:
        for piece in response.raw.stream(_PIECE, decode_content=False):
            size += len(piece)
            if size > most:
                raise _too_large(response, most)
            with _disk():
                file.write(piece)
    finally:
        with _disk():
            file.close()


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _DiskError(error) from None


def _too_large(response: requests.Response, most: int) -> ServerGarbled:
    return ServerGarbled(f"{response.url}: the answer is larger than {most} bytes")


def _meaning(call: str, error: BaseException, sent: bool) -> ServerUnavailable | CredentialError:
    """What no answer means: a certificate of ours that the server's TLS refuses is not a matter of waiting."""
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLError) and "ALERT" in str(cause.reason) and "CERT" in str(cause.reason):
        return CredentialError(f"{call}: the server refuses our certificate: {cause.reason}")
    return ServerUnavailable(f"{call}: {_reason(cause)}", maybe_done=sent)


def _innermost(error: BaseException) -> BaseException:
    """The cause below all: urllib3 and requests wrap it up to four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _reason(error: BaseException) -> str:
    error = _innermost(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
