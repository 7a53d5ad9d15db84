"""What the faulty answers to any kind of request stand on, and the faults that any request can meet."""

from __future__ import annotations

import contextlib
import time
import zlib
from urllib.parse import unquote

import trustme

from tests.storage.fault_proxy import reset
from tests.storage.web import Answers, WebServer

BODY = bytes(range(256)) * (3 << 12)
"""3 MiB: what every path promises."""

Fault = str
"""The first word of a path; the words behind it are its numbers."""


class FaultWeb(WebServer):
    """What the server knows beside its requests."""

    def __init__(self, handler: type[FaultAnswers], ca: trustme.CA | None = None) -> None:
        super().__init__(handler, ca)
        self.deleted: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.ends: list[bytes] = []  # the last pieces of a third-party copy, each a chunk of its own
        self.refused = False
        self.marker_s = 0.1  # between two performance markers of a third-party copy; 5 in reality


class FaultAnswers(Answers):
    """A handler that knows the words of its path."""

    server: FaultWeb
    turn = 0
    """How often this was asked for, with this request: faults may be for the first few only."""

    @property
    def words(self) -> list[str]:
        return self.path.partition("?")[0].split("/")[1:]

    @property
    def fault(self) -> Fault:
        return self.words[0]

    def number(self, place: int) -> int:
        return int(self.words[place])

    def common(self) -> bool:
        """Answer with a fault that has nothing to do with the method; False if the path asks for none."""
        handler = getattr(self, f"any_{self.fault}", None)
        if handler is None:
            return False
        handler()
        return True

    def any_code(self) -> None:
        """``/code/CODE``: with that status, once the body is there."""
        self.body()
        self.head(self.number(1))

    def any_early(self) -> None:
        """``/early/CODE``: without a look at the body, as a server that will not take it."""
        self.head(self.number(1), Connection="close")

    def any_busy(self) -> None:
        """``/busy/COUNT/SECONDS``: 503 and Retry-After for the first few, then well."""
        if self.turn > self.number(1):
            self.well()
            return
        self.body()
        self.head(503, Retry_After=self.words[2])

    def any_later(self) -> None:
        """``/later/TEXT``: 503 for ever, with that Retry-After (URL-quoted)."""
        self.body()
        self.head(503, Retry_After=unquote(self.words[1]))

    def any_guarded(self) -> None:
        """403 as long as the server's word is that nobody is welcome."""
        if self.server.refused:
            self.body()
            self.head(403)
        else:
            self.well()

    def any_once(self) -> None:
        if self.turn > 1:
            self.well()
            return
        self.body()
        self.head(503)

    def any_away(self) -> None:
        """``/away/CODE/SCHEME/HOST:PORT/PATH``: to wherever."""
        self.body()
        _, code, scheme, *rest = self.words
        self.head(int(code), Location=f"{scheme}://{'/'.join(rest)}")

    def any_elsewhere(self) -> None:
        self.body()
        self.head(302, Location="ftp://127.0.0.1/file")

    def any_loop(self) -> None:
        self.body()
        self.head(307 if self.command in {"PUT", "COPY"} else 302, Location=self.path)

    def any_silent(self) -> None:
        self.wait()

    def any_driphead(self) -> None:
        """A header without end, whose next letter always comes soon enough for a read's time limit."""
        self.send_response(200)
        self.flush_headers()
        self.wfile.write(b"X-Patience: ")
        while self.sleep(0.05):
            self.wfile.write(b"y")

    def any_garbage(self) -> None:
        self.wfile.write(b"\x00\x01 this is no answer\r\n\r\n")
        self.close_connection = True

    def any_reset(self) -> None:
        self.reset()

    def well(self) -> None:
        """What the path would give without a fault."""
        raise NotImplementedError

    def reset(self) -> None:
        """End the connection with RST, once what was said has arrived; behind TLS only `FaultProxy` can do that."""
        time.sleep(0.05)
        self.rfile.close()  # it holds the socket open
        with contextlib.suppress(OSError):
            reset(self.connection)
        self.close_connection = True

    def digest(self, content: bytes) -> dict[str, str]:
        """The header that tells a checksum, to who asks for it."""
        wanted = "adler32" in self.headers.get("Want-Digest", "").lower()
        return {"Digest": f"adler32={zlib.adler32(content):08x}"} if wanted else {}
