"""A web server at another address, which tells afterwards what reached it: nobody's token should."""

from __future__ import annotations

import trustme

from tests.storage.web import Answers, WebServer


class Canary(WebServer):
    """Answers every request kindly, so that a client shows all it has: GET with ``content``, PUT by storing."""

    def __init__(self, content: bytes = b"sung by a canary", ca: trustme.CA | None = None) -> None:
        super().__init__(_Handler, ca)
        self.content = content
        self.stored: dict[str, bytes] = {}


class _Handler(Answers):
    server: Canary

    def answer(self) -> None:
        self.remember()
        content = self.body()
        match self.command:
            case "PUT":
                self.server.stored[self.path] = content
                self._say(201)
            case "COPY":
                self._say(201, b"success: Created")
            case "PROPFIND":
                self._say(207, b'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"/>')
            case "GET" | "HEAD":
                self._say(200, self.server.stored.get(self.path, self.server.content))
            case _:
                self._say(201)

    def _say(self, code: int, content: bytes = b"") -> None:
        self.head(code, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)
