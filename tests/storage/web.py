"""What the web servers of these tests have in common: they remember every request, and end with the test."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import trustme


@dataclass(frozen=True, slots=True)
class Seen:
    """One request; names of headers are looked up without regard to case."""

    method: str
    path: str
    headers: Message

    @property
    def authorization(self) -> str | None:
        return self.headers["Authorization"]


class WebServer(ThreadingHTTPServer):
    """Started by `with`, on a free port; with a ``ca`` it speaks TLS only, as localhost and 127.0.0.1."""

    daemon_threads = False  # so that leaving the block waits for every handler
    request_queue_size = 64

    def __init__(self, handler: type[Answers], ca: trustme.CA | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.over = threading.Event()
        self.seen: list[Seen] = []
        self._open: set[socket.socket] = set()
        self.on_request: Callable[[], None] = lambda: None
        self._tls: ssl.SSLContext | None = None
        if ca is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ca.issue_cert("localhost", "127.0.0.1").configure_cert(self._tls)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def requests(self) -> list[str]:
        """The paths that were asked for, by whatever method."""
        return [seen.path for seen in self.seen]

    @property
    def tokens(self) -> list[str]:
        """Each value of the header Authorization that came, for tests of who must never get one."""
        return [seen.authorization for seen in self.seen if seen.authorization is not None]

    def asked(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.server_port}/{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        for sock in list(self._open):
            with contextlib.suppress(OSError):  # a client that keeps its connection must not keep its handler
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS's own would change what a handler works on
        self.server_close()

    def get_request(self) -> tuple[socket.socket, object]:
        sock, address = super().get_request()
        if self._tls is not None:  # the handshake is the handler's, so that nobody else waits for it
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._open.add(sock)
        return sock, address

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away, or does not like our certificate, is what is tested here."""


class Answers(BaseHTTPRequestHandler):
    """What handlers say, and how they wait."""

    protocol_version = "HTTP/1.1"
    server: WebServer

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(30)

    def answer(self) -> None:
        """Answer ``command``, whichever it is."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def do_COPY(self) -> None:
        self.answer()

    def do_MOVE(self) -> None:
        self.answer()

    def do_MKCOL(self) -> None:
        self.answer()

    def do_PROPFIND(self) -> None:
        self.answer()

    def log_message(self, *_args: object) -> None:
        pass

    def remember(self) -> int:
        """Write the request down; gives back how many of its kind there have been, with this one."""
        self.server.seen.append(Seen(self.command, self.path, self.headers))
        self.server.on_request()
        return len(self.server.asked(self.command, self.path))

    def head(self, code: int, length: int | None = 0, **headers: str) -> None:
        """Status line and headers; an underscore in a header's name stands for a hyphen."""
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        """A piece of a body of unknown length; an empty one ends it."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def body(self) -> bytes:
        """What the client sent, of known length or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def wait(self) -> None:
        """Say nothing until the client goes away, or the test is over."""
        self.connection.settimeout(0.05)
        while not self.server.over.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.connection.recv(1 << 16):
                    break
        self.close_connection = True

    def sleep(self, seconds: float) -> bool:
        """Wait; False when the test is over."""
        return not self.server.over.wait(seconds)
