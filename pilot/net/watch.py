"""The socket of a call in flight, behind a shell that holds the call's limits and can be shut by another thread.

`requests` limits single reads only: a server that sends one byte a second would never time out. So each read is
shortened to what is left of the total.
"""

from __future__ import annotations

import io
import math
import socket
import threading
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pilot.net.final import FinalResponse
from pilot.values.deadline import Deadline

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Watch:
    """The limits of the call in flight, and the socket that it uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._interrupted = False
        self._idle_s = math.inf
        self._deadline = Deadline.never()
        self.sent = False

    def begin(self, idle_s: float, total_s: float) -> None:
        """A call begins."""
        with self._lock:
            self._interrupted = False
            self.sent = False
            self._idle_s = idle_s
            self._deadline = Deadline.after(total_s)

    def end(self) -> None:
        """The call is over."""
        self._deadline = Deadline.never()

    def attach(self, sock: socket.socket) -> None:
        """The call uses this socket."""
        with self._lock:
            self._socket = sock
            if self._interrupted:
                _shut(sock)

    def interrupt(self) -> None:
        """Shut the socket of the call in flight, or of the one that is being connected."""
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

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
        self._sock = sock
        self._watch = watch
        watch.attach(sock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: bytes) -> None:
        self._watch.attach(self._sock)  # a kept connection is in use again
        self._sock.settimeout(self._watch.wait_s())
        self._watch.sent = True
        self._sock.sendall(data)

    def makefile(self, _mode: str = "rb", *_args: Any, **_more: Any) -> io.BufferedReader:
        return io.BufferedReader(_LimitedReader(self._sock, self._watch))


class _LimitedReader(io.RawIOBase):
    """The reading side of a `_LimitedSocket`."""

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
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


class Adapter(HTTPAdapter):
    """Makes connections whose sockets obey the watch."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """The pool of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._watch)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _pool_classes(self._watch)
        return manager


def _pool_classes(watch: Watch) -> dict[str, Any]:
    class Plain(HTTPConnection):
        response_class = FinalResponse

        def connect(self) -> None:
            super().connect()
            self.sock = _LimitedSocket(self.sock, watch)

    class Secure(HTTPSConnection):
        response_class = FinalResponse

        def connect(self) -> None:
            super().connect()
            self.sock = _LimitedSocket(self.sock, watch)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
