"""A web server that misbehaves as the path says; real sockets, so that the client meets the real thing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

BODY = bytes(range(256)) * (3 << 12)
"""3 MiB: what every path promises."""


class FaultServer(ThreadingHTTPServer):
    """``/FAULT/...``; `deleted` and `stored` say what clients did."""

    daemon_threads = False  # so that leaving the block waits for every handler

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.over = threading.Event()
        self.deleted: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.on_request: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what is tested here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(30)

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        fault = self._fault()
        if fault == "redirect":  # /redirect/CODE/...
            self._head(int(self.path.split("/")[2]), 0, Location="/fine/file")
        elif fault == "loop":
            self._head(302, 0, Location=self.path)
        elif fault == "elsewhere":
            self._head(302, 0, Location="ftp://127.0.0.1/file")
        elif fault == "code":
            self._head(int(self.path.split("/")[2]), 0)
        elif fault == "once" and self.server.requests.count(self.path) == 1:
            self._head(503, 0)
        elif fault == "silent":
            self._wait()
        else:
            self._head(200, len(BODY))
            self._body(fault)

    def do_HEAD(self) -> None:
        if self._fault() == "lies":
            self._head(200, len(BODY), Digest="adler32=00000001")
            return
        found = self.server.stored.get(self.path.replace("/movedput/x", "/landed/file"))
        self._head(404 if found is None else 200, len(found or b""))

    def do_PUT(self) -> None:
        fault = self._fault()
        if fault == "movedput":
            self._head(307, 0, Location="/landed/file")
            self.close_connection = True
            return
        if fault == "stuckput":
            self.rfile.read(1 << 20)
            self._wait()
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if fault == "dropput":
            self.close_connection = True
            return
        self.server.stored[self.path] = body[:-1] if fault == "shortput" else body
        self._head(201, 0)

    def do_DELETE(self) -> None:
        self._fault()
        self.server.deleted.append(self.path)
        self._head(204, None)

    def _fault(self) -> str:
        self.server.requests.append(self.path)
        self.server.on_request()
        return self.path.split("/")[1].partition("?")[0]

    def _head(self, code: int, length: int | None, **headers: str) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, fault: str) -> None:
        if fault == "flipped":
            self.wfile.write(BODY[:-1] + bytes([BODY[-1] ^ 1]))
        elif fault == "short":
            self.wfile.write(BODY[: 2 << 20])
            self.close_connection = True
        elif fault == "stalls":
            self.wfile.write(BODY[: 2 << 20])
            self._wait()
        else:
            self.wfile.write(BODY)

    def _wait(self) -> None:
        """Say nothing until the client goes away, or the test is over."""
        self.connection.settimeout(0.05)
        while not self.server.over.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.connection.recv(1 << 16):
                    break
        self.close_connection = True
