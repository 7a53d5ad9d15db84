"""Faults of COPY: third-party copies that another server is asked for, and that tell how they go as they go."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from tests.storage.fault_answers import BODY, FaultAnswers


class Copies(FaultAnswers):
    """Each ``copy_FAULT`` answers ``/FAULT/...``, with what a good copy would bring being ``BODY``."""

    def copy_copied(self) -> None:
        """``/copied/CODE``: well, with that status."""
        self._begin(self.number(1))
        self._marker(len(BODY))
        self._store(BODY)
        self._end(b"success: Created")

    def copy_copyfails(self) -> None:
        """Fails in the middle, and leaves what came."""
        self._begin()
        self._marker(1 << 20)
        self._store(BODY[: 1 << 20])
        self._end(b'failure: Remote side failed with status code 404; error message: "Unable to open it "')

    def copy_copyfirst(self) -> None:
        """``/copyfirst/K``: the first K fail."""
        if self.turn <= self.number(1):
            self.copy_copyfails()
        else:
            self.well_copied()

    def copy_copyends(self) -> None:
        """``/copyends``: with the server's own last words."""
        self._begin()
        self._marker(1 << 20)
        self._store(BODY[: 1 << 20])
        for piece in filter(None, self.server.ends):
            self.chunk(piece)
            self.wfile.flush()
        self.chunk(b"")

    def copy_copycut(self) -> None:
        """The connection ends without a last line."""
        self._begin()
        self._marker(1 << 20)
        self._store(BODY[: 1 << 20])
        self.close_connection = True

    def copy_copyunsaid(self) -> None:
        """It ends in order, and a last line there is not."""
        self._begin()
        self._marker(len(BODY))
        self._store(BODY)
        self._end(b"")

    def copy_copystalls(self) -> None:
        """Markers come, and their number of bytes stays what it was."""
        self._begin()
        self._store(BODY[: 1 << 20])
        while self._marker(1 << 20):
            pass

    def copy_copysilent(self) -> None:
        """It begins, and not even markers come."""
        self._begin()
        self.wait()

    def copy_copyslow(self) -> None:
        """``/copyslow/STEPS``: well, with so many markers on the way."""
        self._begin()
        steps = self.number(1)
        if all(self._marker(len(BODY) * step // steps) for step in range(1, steps + 1)):
            self._store(BODY)
            self._end(b"success: Created")

    def copy_copyempty(self) -> None:
        """Said to be there, and it is not."""
        self._begin()
        self._end(b"success: Created")

    def copy_copyshort(self) -> None:
        self._begin()
        self._store(BODY[:-1])
        self._end(b"success: Created")

    def copy_copycorrupt(self) -> None:
        self._begin()
        self._store(BODY[:-1] + bytes([BODY[-1] ^ 1]))
        self._end(b"success: Created")

    def copy_copyhtml(self) -> None:
        """A page of a proxy's own in place of an answer."""
        page = b"<html><body>success: Created</body></html>"
        self.head(200, len(page), Content_Type="text/html")
        self.wfile.write(page)

    def well_copied(self) -> None:
        self._begin()
        self._store(BODY)
        self._end(b"success: Created")

    def _begin(self, code: int = 201) -> None:
        self.head(code, None, Content_Type="text/plain", Transfer_Encoding="chunked")

    def _marker(self, moved: int) -> bool:
        """Tell how far it is, and wait until the next is due; False when the test is over."""
        lines = ["Perf Marker", f"Timestamp: {int(time.time())}", "Stripe Index: 0"]
        lines += [f"Stripe Bytes Transferred: {moved}", "Total Stripe Count: 1"]
        lines += ["RemoteConnections: tcp:127.0.0.1:1094", "End", ""]
        self.chunk("\n".join(lines).encode())
        return self.sleep(self.server.marker_s)

    def _end(self, line: bytes) -> None:
        if line:
            self.chunk(line)  # without a line's end, as xrootd does
        self.chunk(b"")

    def _store(self, content: bytes) -> None:
        """At the target: the path itself when it is asked to fetch, the other one when it is asked to send."""
        target = urlsplit(self.headers.get("Destination", "")).path or self.path
        self.server.stored[target] = content
