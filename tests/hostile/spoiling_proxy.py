"""A web server in front of `pilot serve` that hands on all that is asked, and spoils some of the answers."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

Spoil = Callable[[str, bytes], bytes]
"""Of a path and the body of its answer makes the body that is sent."""


class SpoilingProxy:
    """Started by `with`."""

    def __init__(self, port: int, spoil: Spoil) -> None:
        handler = type("Handler", (_Handler,), {"port": port, "spoil": staticmethod(spoil)})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    port: int
    spoil: Spoil

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)) as behind:
            behind.request(self.command, self.path, body, told)
            answer = behind.getresponse()
            content = self.spoil(self.path, answer.read())
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815 - the name is http.server's

    def log_message(self, *_args: object) -> None:
        """Nothing."""
