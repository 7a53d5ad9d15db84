"""The connections that no worker has: new ones, idle ones, those whose request is not whole yet, those that end.

One thread looks after all of them and waits for none. A worker gets a connection when its request is there, so
a client that sends half of one costs a descriptor and a time limit. It takes the place of cheroot's own
manager, whose methods its server calls by these names.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from enum import Enum
from typing import Any

from cheroot.server import HTTPConnection

from pilot.embedded.headers import StrictRequest
from pilot.embedded.streams import WINDOW_S, Reader, Writer

IDLE_S = 600
"""How long a connection may be kept for its next request."""
REQUEST_S = 10.0
"""How long handshake, headers and a small body may take together."""
_FAREWELL_S = 2.0
_FAREWELL_BYTES = 2**22
_PARKED_S = 60.0
_MOST = 1000
_MOST_LONG = 32
_AT_ONCE = 64
_TIRED_S = 0.05
_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_PLAIN = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 29\r\n\r\nthis port speaks HTTPS only.\n"
_NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Phase(Enum):
    """What a connection is waiting for."""

    HANDSHAKE = "handshake"
    REQUEST = "request"
    IDLE = "idle"
    PARKED = "parked"
    FAREWELL = "farewell"


class Connection(HTTPConnection):
    """A client's connection."""

    RequestHandlerClass = StrictRequest

    def __init__(self, server: Any, connection: socket.socket, phase: Phase) -> None:
        super().__init__(server, connection, _end_of)
        self.ssl_env: dict[str, Any] = {}
        self.phase = phase
        self.until = time.monotonic() + REQUEST_S
        self.is_hung_up = False
        self.left = _FAREWELL_BYTES

    def close(self) -> None:
        """End it; where we have said something, the client gets time to read it."""
        said = self.wfile.bytes_written and not self.is_hung_up and not self.rfile.is_over
        if not (said and self.server.connections.farewell(self)):
            self.server.connections.forget(self)
            with contextlib.suppress(OSError):
                super().close()


def _end_of(connection: socket.socket, mode: str, _size: int) -> Reader | Writer:
    return Reader(connection) if "r" in mode else Writer(connection)


class Connections:
    """Those of one server, which listens already."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._listener: socket.socket = server.socket
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.RLock()
        self._waiting: dict[Connection, None] = {}
        self._parked: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._long: set[Connection] = set()
        self._most = max(_AT_ONCE, min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4))
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._serving = threading.Lock()
        self._expires = 0.0
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)

    # --- what cheroot's server calls

    def run(self, interval_s: float) -> None:
        """Look after the connections until ``stop``."""
        with self._serving:
            while not self._stopping:
                for key, _ in self._selector.select(interval_s):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data in self._waiting:
                        self._look(key.data)
                if time.monotonic() >= self._expires:
                    self._expires = time.monotonic() + interval_s
                    self._expire(time.monotonic())

    def put(self, conn: Connection) -> None:
        """A worker is done with a request: the connection waits for the next one."""
        self._release(conn)
        conn.rfile.begin()
        conn.phase, conn.until = Phase.IDLE, time.monotonic() + IDLE_S
        conn.socket.setblocking(False)
        self._look(conn)

    def stop(self) -> None:
        """End ``run``, and wait until it has ended."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        with self._serving:
            pass

    def close(self) -> None:
        """Close all connections that wait."""
        with self._lock:
            waiting = list(self._waiting) + list(self._parked)
            self._parked.clear()
        for conn in waiting:
            self._drop(conn)
        self._selector.close()
        os.close(self._wake)

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Whether a connection may be kept after its answer."""
        return len(self._open) <= self._most

    # --- what a connection calls when it ends

    def farewell(self, conn: Connection) -> bool:
        """Send no more, and let the client end: one that still sends would lose our answer. False when stopping."""
        if self._stopping or conn.phase is Phase.FAREWELL:
            return False
        self._release(conn)
        try:
            conn.socket.setblocking(False)
            socket.socket.shutdown(conn.socket, socket.SHUT_WR)
        except OSError:
            return False
        conn.phase, conn.until = Phase.FAREWELL, time.monotonic() + _FAREWELL_S
        conn.rfile.close()
        return self._await(conn)

    def forget(self, conn: Connection) -> None:
        """It is closed."""
        self._release(conn)
        with self._lock:
            self._open.discard(conn)

    # --- the phases

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self._make_room()  # most likely we are out of descriptors
                    time.sleep(_TIRED_S)
                return
            if len(self._open) >= self._most:
                self._make_room()
            self._welcome(connection, address)

    def _welcome(self, connection: socket.socket, address: Any) -> None:
        adapter, phase = self._server.ssl_adapter, Phase.REQUEST
        try:
            connection.setblocking(False)
            if adapter is not None:
                connection = adapter.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                phase = Phase.HANDSHAKE
        except (OSError, ValueError):
            connection.close()
            return
        conn = Connection(self._server, connection, phase)
        conn.remote_addr, conn.remote_port = address[:2]
        with self._lock:
            self._open.add(conn)
        self._look(conn)

    def _make_room(self) -> None:
        """Close who waits longest: of those that never sent a request, if there are any."""
        with self._lock:
            chosen = min(self._waiting, key=lambda one: (one.phase is Phase.IDLE, one.until), default=None)
        if chosen is not None:
            self._drop(chosen)

    def _look(self, conn: Connection) -> None:
        """Take what has come, and do what it asks for."""
        try:
            if conn.phase is Phase.FAREWELL:
                self._throw_away(conn)
            if conn.phase is Phase.HANDSHAKE:
                self._shake_hands(conn)
            while not conn.rfile.is_whole():
                conn.rfile.receive()
                if conn.phase is Phase.IDLE:
                    conn.phase, conn.until = Phase.REQUEST, time.monotonic() + REQUEST_S
        except _NOTHING_YET:
            if not self._await(conn):
                self._drop(conn)
        except (OSError, ValueError):
            self._drop(conn)
        else:
            self._ready(conn)

    def _shake_hands(self, conn: Connection) -> None:
        try:
            conn.socket.do_handshake()
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                with contextlib.suppress(OSError):
                    conn.wfile.bytes_written = socket.socket.send(conn.socket, _PLAIN)
            raise
        conn.ssl_env = self._server.ssl_adapter.get_environ(conn.socket)
        conn.phase = Phase.REQUEST

    @staticmethod
    def _throw_away(conn: Connection) -> None:
        """Below TLS: nobody wants to know what it was."""
        while piece := socket.socket.recv(conn.socket, 2**16):
            conn.left -= len(piece)
            if conn.left < 0:
                break
        raise ConnectionResetError

    def _ready(self, conn: Connection) -> None:
        """The request is there, or the end."""
        if conn.rfile.is_over:
            self._drop(conn)
            return
        self._ignore(conn)
        with self._lock:
            if conn.rfile.is_long and len(self._long) >= _MOST_LONG:
                conn.phase, conn.until = Phase.PARKED, time.monotonic() + _PARKED_S
                self._parked.append(conn)
                return
            if conn.rfile.is_long:
                self._long.add(conn)
        self._hand_over(conn)

    def _hand_over(self, conn: Connection) -> None:
        conn.socket.settimeout(WINDOW_S)
        self._server.process_conn(conn)

    def _release(self, conn: Connection) -> None:
        """A worker is free of a request that might have kept it for long: the next such may have one."""
        following = None
        with self._lock:
            if conn in self._long:
                self._long.remove(conn)
                if self._parked:
                    following = self._parked.popleft()
                    self._long.add(following)
        if following is not None:
            self._hand_over(following)

    def _expire(self, now: float) -> None:
        with self._lock:
            late = [conn for conn in self._waiting if conn.until < now]
            while self._parked and self._parked[0].until < now:
                late.append(self._parked.popleft())
        for conn in late:
            self._drop(conn, {Phase.REQUEST: _LATE, Phase.PARKED: _BUSY}.get(conn.phase, b""))

    # --- the book

    def _await(self, conn: Connection) -> bool:
        """Look again when something comes; False when stopping."""
        with self._lock:
            if self._stopping:
                return False
            if conn not in self._waiting:
                self._selector.register(conn.socket, selectors.EVENT_READ, conn)
                self._waiting[conn] = None
        return True

    def _ignore(self, conn: Connection) -> None:
        with self._lock:
            if conn in self._waiting:
                del self._waiting[conn]
                self._selector.unregister(conn.socket)

    def _drop(self, conn: Connection, last_words: bytes = b"") -> None:
        """Close a connection that no worker has; ``last_words`` go out if they can at once."""
        self._ignore(conn)
        with contextlib.suppress(OSError, ValueError):
            if last_words and (conn.rfile.has_data() or conn.phase is Phase.PARKED):
                conn.wfile.write(last_words)
        conn.close()
