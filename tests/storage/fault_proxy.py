"""A TCP proxy that misbehaves, in front of any server; it knows nothing of what it carries."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from typing import Literal, Self

Mode = Literal["pass", "cut", "rst", "stall", "flip", "slow", "flaky", "blackhole"]
"""What happens to a connection:

- pass: nothing
- cut, rst: it ends after ``n`` bytes, in order or by a reset
- stall: after ``n`` bytes nothing comes any more
- flip: one bit of byte ``n`` is another
- slow: ``n`` bytes a second come through
- flaky: the first ``n`` connections are reset at once
- blackhole: it is accepted, and nothing else ever happens
"""

_CHUNK = 1 << 16


class FaultProxy:
    """Started by `with`; ``connections`` counts them, ``moved`` the bytes that came through in the faulty direction.

    ``n`` counts in each connection anew, headers and TLS with it, in what the server says, or with ``upward`` in what
    the client says. Only the first ``faulty`` connections are treated so; None means all. ``mode`` and ``n`` may be
    changed for those to come.
    """

    def __init__(
        self, target_port: int, mode: Mode = "pass", n: int = 0, *, faulty: int | None = None, upward: bool = False
    ) -> None:
        self.target_port = target_port
        self.mode: Mode = mode
        self.n = n
        self.faulty = n if mode == "flaky" else faulty
        self.upward = upward
        self.connections = 0
        self.moved = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = [self._listener]
        self._acceptor = threading.Thread(target=self._accept, name="fault-proxy")
        self._carriers: list[threading.Thread] = []

    def root(self, path: str) -> str:
        return f"root://127.0.0.1:{self.port}//{path}"

    def http(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def https(self, path: str) -> str:
        return f"https://localhost:{self.port}/{path}"

    def count(self, size: int) -> None:
        with self._lock:
            self.moved += size

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than the test."""
        self._over.wait(seconds)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        _shut(self._listener)  # wakes the thread that waits on it
        self._acceptor.join()  # nobody comes any more while the others are ended
        for sock in self._open:
            _shut(sock)
        for carrier in self._carriers:
            carrier.join()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                self._open.append(client)
                self.connections += 1
                fault = self.faulty is None or self.connections <= self.faulty
                self._serve(client, self.mode if fault else "pass")

    def _serve(self, client: socket.socket, mode: Mode) -> None:
        if mode == "blackhole":
            return
        server = None if mode == "flaky" else _connected(self.target_port)
        if server is None:
            reset(client)
            return
        self._open.append(server)
        faulty, other = (client, server) if self.upward else (server, client)
        link = _Link(self, mode, self.n, faulty, other)
        self._carriers.append(threading.Thread(target=link.carry, name=f"fault-proxy-{mode}"))
        self._carriers[-1].start()


class _Link:
    """One connection; one thread carries both directions, as a socket that another one reads cannot be reset."""

    def __init__(self, proxy: FaultProxy, mode: Mode, n: int, faulty: socket.socket, other: socket.socket) -> None:
        self._proxy = proxy
        self._mode = mode
        self._n = n
        self._faulty = faulty
        self._other = other
        self._passed = 0
        self._sources = [faulty, other]

    def carry(self) -> None:
        with contextlib.suppress(OSError):
            while all(self._step(source) for source in select.select(self._sources, [], [])[0]):
                pass
        for sock in (self._faulty, self._other):
            _shut(sock)

    def _step(self, source: socket.socket) -> bool:
        """Pass on what is there; False at the connection's end."""
        chunk = source.recv(max(1, self._n // 10) if self._mode == "slow" else _CHUNK)
        if source is self._faulty:
            return bool(chunk) and self._treat(chunk)
        self._faulty.sendall(chunk)
        return bool(chunk)

    def _treat(self, chunk: bytes) -> bool:
        left = self._n - self._passed
        match self._mode:
            case "flip" if 0 <= left < len(chunk):
                chunk = chunk[:left] + bytes([chunk[left] ^ 1]) + chunk[left + 1 :]
            case "slow":
                self._proxy.wait(len(chunk) / self._n)
            case "cut" | "rst" | "stall" if left < len(chunk):
                self._pass(chunk[:left])
                return self._break()
        self._pass(chunk)
        return True

    def _pass(self, chunk: bytes) -> None:
        self._other.sendall(chunk)
        self._passed += len(chunk)
        self._proxy.count(len(chunk))

    def _break(self) -> bool:
        if self._mode == "stall":
            self._sources = [self._other]
            return True
        if self._mode == "rst":
            time.sleep(0.05)  # a reset takes with it what has not arrived yet
            reset(self._other)
            reset(self._faulty)
        return False


def reset(sock: socket.socket) -> None:
    """End a connection with RST in place of FIN."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _connected(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        sock = socket.create_connection(("127.0.0.1", port), 5)
        sock.settimeout(None)
        return sock
    return None


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
