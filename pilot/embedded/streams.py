"""The two ends of a connection: what was received and is not read yet, and reading and writing at a least pace.

A worker waits for a client only in here, and only while bytes flow: one that sends or takes less than
``LEAST_BYTES`` in ``WINDOW_S`` has given up, or is none.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

HEAD_BYTES = 2**15
"""How long request line and headers may be together."""
SMALL_BYTES = 2**16
"""A body of this size is received before anybody works on its request."""
WINDOW_S = 15.0
LEAST_BYTES = 60 * 2**10
_PIECE_BYTES = 2**18
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_SLOW = re.compile(rb"\r\n(?:expect|content-encoding):", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_FILES = (b"/store/", b"/cache/")


class Pace:
    """Counts bytes and the time that was spent on waiting for them."""

    def __init__(self) -> None:
        self._bytes = 0
        self._spent_s = 0.0

    def moved(self, count: int, spent_s: float) -> None:
        """So many bytes took so long; raises TimeoutError where that is too slow."""
        self._bytes += count
        self._spent_s += spent_s
        if self._spent_s >= WINDOW_S:
            if self._bytes < LEAST_BYTES:
                raise TimeoutError("timed out")
            self._bytes, self._spent_s = 0, 0.0


class Reader:
    """What a client sends, as cheroot reads it; the name of each method is cheroot's but for the first three."""

    def __init__(self, connection: socket.socket) -> None:
        self.closed = False
        self.bytes_read = 0
        self._socket = connection
        self._buffer = bytearray()
        self._at_end = False
        self.begin()

    def begin(self) -> None:
        """The next bytes are those of a new request."""
        self.is_long = False
        self._pace = Pace()
        self._looked = 0
        self._wanted: int | None = None

    def receive(self) -> None:
        """Take what is there, without waiting where the socket does not; raises what its recv does."""
        piece = self._socket.recv(SMALL_BYTES)
        self._at_end = not piece
        self._buffer += piece

    def is_whole(self) -> bool:
        """Whether a worker can begin: nothing to wait for, but for the rest of a body that is not small."""
        if self._wanted is None:
            end = self._buffer.find(_END, max(0, self._looked - len(_END)))
            self._looked = len(self._buffer)
            if end >= 0:
                body, self.is_long = _wanted(bytes(self._buffer[: end + len(_END)]))
                self._wanted = end + len(_END) + body
        enough = HEAD_BYTES + 1 if self._wanted is None else self._wanted
        return self._at_end or len(self._buffer) >= enough

    @property
    def is_over(self) -> bool:
        """Whether the client has sent its last byte, and all were read."""
        return self._at_end and not self._buffer

    def has_data(self) -> bool:
        """Whether something was received and not read."""
        return bool(self._buffer)

    def read(self, size: int | None = None) -> bytes:
        """Up to ``size`` bytes, all until the end without; none at the end. Raises OSError."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_PIECE_BYTES), b""))
        if not self._buffer and size:
            return self._counted(self._more(min(size, _PIECE_BYTES)))
        return self._counted(self._taken(size))

    def readline(self, size: int) -> bytes:
        """The bytes up to the end of a line, not more than ``size``. Raises OSError."""
        while (end := self._buffer.find(b"\n", 0, size) + 1) == 0 and len(self._buffer) < size:
            piece = self._more(size)
            if not piece:
                break
            self._buffer += piece
        return self._counted(self._taken(end or size))

    def close(self) -> None:
        """Nothing more is read."""
        self.closed = True
        self._buffer.clear()

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self, size: int) -> bytes:
        """The next bytes of the socket, waited for; none at the end."""
        if self._at_end:
            return b""
        began = time.monotonic()
        with _plain_errors():
            piece = self._socket.recv(size)
        self._at_end = not piece
        self._pace.moved(len(piece), time.monotonic() - began)
        return piece

    def _counted(self, piece: bytes) -> bytes:
        self.bytes_read += len(piece)
        return piece


class Writer:
    """What a client gets, as cheroot writes it."""

    def __init__(self, connection: socket.socket) -> None:
        self.bytes_written = 0
        self._socket = connection

    def write(self, content: bytes) -> int:
        """Send all of it; raises OSError, also where the client takes it too slowly."""
        left, pace = memoryview(content), Pace()
        while left:
            began = time.monotonic()
            with _plain_errors():
                sent = self._socket.send(left[:_PIECE_BYTES])
            pace.moved(sent, time.monotonic() - began)
            left = left[sent:]
        self.bytes_written += len(content)
        return len(content)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """TLS's errors as those of a plain socket, which cheroot knows not to make a fuss about."""
    try:
        yield
    except TimeoutError:
        raise TimeoutError("timed out") from None
    except ssl.SSLError as error:
        raise ConnectionResetError(104, str(error)) from None


def _wanted(head: bytes) -> tuple[int, bool]:
    """How many bytes of the body are waited for, and whether the request may keep its worker for long.

    Long are large bodies, files in both directions, and compressed bodies, which are larger than they look.
    """
    if _CHUNKED.search(head):
        return 0, False  # will be refused, unread
    found = _LENGTH.search(head)
    length = int(found[1]) if found else 0
    target = head.split(b" ", 2)[1:2]
    path = b"/" + unquote_to_bytes(target[0].partition(b"?")[0]).lstrip(b"/") if target else b""
    if length > SMALL_BYTES or _SLOW.search(head):
        return 0, True
    return length, path.startswith(_FILES)
