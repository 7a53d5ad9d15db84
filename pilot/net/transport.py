"""HTTP calls to one server, each with limits to connect, to stay idle, and in all.

One keep-alive session, used by one thread at a time. Redirects are not followed, the environment is not
read (``trust_env``), the server's certificate is verified. `interrupt` may be called from another thread:
it shuts the socket down, so that a call in flight ends at once.

`requests` limits single reads only: a server that sends one byte a second would never time out. So each
connection's socket stands behind a small shell that shortens every read to what is left of the total.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pilot.values.deadline import Deadline
from pilot.values.errors import CredentialError, ServerGarbled, ServerUnavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take (seconds), and how much it may answer (bytes)."""

    connect_s: float = 15.0
    idle_s: float = 60.0
    total_s: float = 120.0
    most_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: any status, the whole body."""

    status: int
    body: bytes


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
        self._watch = _Watch()
        self._verify = verify
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._session.cert = certificate or None
        adapter = _Adapter(self._watch)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def call(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        limits: Limits,
    ) -> Answer:
        """Send one request and read its answer, whatever its status.

        ``url`` is absolute, or a path below the base. Raises ServerUnavailable when no answer came whole,
        ServerGarbled when it is larger than ``limits.most_bytes``,
        CredentialError when the server refuses our certificate.
        """
        self._watch.begin(limits)
        target = url if "://" in url else self._base + url
        try:
            with self._session.request(
                method,
                target,
                data=body,
                params=query,
                headers=dict(headers or {}),
                timeout=(limits.connect_s, limits.idle_s),
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                return Answer(response.status_code, _read(response, limits.most_bytes))
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            raise _meaning(f"{method} {target}", error, self._watch.sent) from error
        except (OSError, ValueError) as error:  # ValueError: a TLS socket that was shut down under a read
            raise ServerUnavailable(f"{method} {target}: {_reason(error)}", maybe_done=self._watch.sent) from error
        finally:
            self._watch.end()

    def interrupt(self) -> None:
        """End the call in flight, if there is one: it raises ServerUnavailable in its own thread."""
        self._watch.interrupt()

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()


def _read(response: requests.Response, most: int) -> bytes:
    body = bytearray()
    for piece in response.iter_content(1 << 16):
        body += piece
        if len(body) > most:
            raise ServerGarbled(f"{response.url}: the answer is larger than {most} bytes")
    return bytes(body)


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


class _Watch:
    """The limits of the call in flight, and the socket that it uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._interrupted = False
        self._idle_s = math.inf
        self._deadline = Deadline.never()
        self.sent = False

    def begin(self, limits: Limits) -> None:
        with self._lock:
            self._interrupted = False
            self.sent = False
            self._idle_s = limits.idle_s
            self._deadline = Deadline.after(limits.total_s)

    def end(self) -> None:
        self._deadline = Deadline.never()

    def attach(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock
            if self._interrupted:
                _shut(sock)

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            if self._socket is not None:
                _shut(self._socket)

    def wait_s(self) -> float:
        """How long the next read or write may take; TimeoutError when the total is used up."""
        left = self._deadline.left()
        if left <= 0:
            raise TimeoutError("the time limit of the call is over")
        return min(self._idle_s, left)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected any more: that is what was wanted
        return


class _LimitedSocket:
    """A socket whose reads and writes end with the call's limits; all else is the socket's own."""

    def __init__(self, sock: socket.socket, watch: _Watch) -> None:
        self._sock = sock
        self._watch = watch
        watch.attach(sock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._watch.wait_s())
        self._watch.sent = True
        self._sock.sendall(data)

    def makefile(self, _mode: str = "rb", *_args: Any, **_more: Any) -> io.BufferedReader:
        return io.BufferedReader(_LimitedReader(self._sock, self._watch))


class _LimitedReader(io.RawIOBase):
    """The reading side of a `_LimitedSocket`."""

    def __init__(self, sock: socket.socket, watch: _Watch) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # holds the socket open until we are closed
        self._watch = watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._sock.settimeout(self._watch.wait_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Adapter(HTTPAdapter):
    """Makes connections whose sockets obey the watch."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._watch)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _pool_classes(self._watch)
        return manager


def _pool_classes(watch: _Watch) -> dict[str, Any]:
    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _LimitedSocket(self.sock, watch)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _LimitedSocket(self.sock, watch)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
