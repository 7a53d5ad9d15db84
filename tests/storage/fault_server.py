"""A web server that misbehaves as the path says; real sockets, so that the client meets the real thing."""

from __future__ import annotations

import trustme

from tests.storage.fault_answers import BODY, FaultWeb
from tests.storage.fault_copies import Copies
from tests.storage.fault_downloads import OTHER, Downloads
from tests.storage.fault_uploads import Uploads

__all__ = ["BODY", "OTHER", "FaultServer"]


class FaultServer(FaultWeb):
    """``/FAULT/...``; `seen`, `deleted` and `stored` say what clients did.

    The faults are the methods of `Downloads`, `Uploads`, `Copies` and, for every request, of `FaultAnswers`, and have
    their names there. A path that names none is a good one: GET gives what is stored, or BODY.
    """

    def __init__(self, ca: trustme.CA | None = None) -> None:
        super().__init__(_Handler, ca)

    def away(self, url: str, code: int = 307) -> str:
        """An address here that sends every request to another one."""
        return self.url(f"away/{code}/{url.replace('://', '/', 1)}")


class _Handler(Downloads, Uploads, Copies):
    def answer(self) -> None:
        self.turn = self.remember()
        if not self.common():
            fault = getattr(self, f"{self.command.lower()}_{self.fault}", self.well)
            fault()

    def well(self) -> None:
        match self.command:
            case "GET":
                content = self.server.stored.get(self.path, BODY)
                self.head(200, len(content), **self.digest(content))
                self.wfile.write(content)
            case "HEAD":
                self.look()
            case "PUT":
                self.keep(self.body())
            case "DELETE":
                self.delete()
            case "COPY":
                self.well_copied()
            case "MOVE":
                self.move()
            case "MKCOL":
                self.head(201)
            case _:
                self.head(405)
