"""The final answer to a request: informational ones before it (1xx, RFC 9110, 15.2) are passed over.

http.client passes over 100 only, and takes the 102 or 103 of a busy server for the answer itself. 101 is one: it
ends HTTP on the connection, and nobody here asks for that.
"""

from __future__ import annotations

import http.client
import socket
import time
from typing import Any

_MOST = 100
_MOST_BYTES = 1 << 16
_LONGEST_LINE = 1 << 16


def informational(status: int) -> bool:
    """Whether the true answer is still to come."""
    return 100 <= status < 200 and status != http.client.SWITCHING_PROTOCOLS


class FinalResponse(http.client.HTTPResponse):
    """Stands for the class of a connection's answers.

    What is passed over is bounded in number and in bytes (HTTPException), and in time (TimeoutError): all of it
    together gets no more than one wait for an answer would.
    """

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self._line = sock
        self._times = 0
        self._left_bytes = _MOST_BYTES

    def pass_over(self) -> None:
        """Skip the headers of an informational answer whose first line was read. Raises HTTPException."""
        self._times += 1
        if self._times > _MOST:
            raise http.client.HTTPException(f"more than {_MOST} informational answers")
        while True:
            line = self.fp.readline(_LONGEST_LINE)
            self._left_bytes -= len(line)
            if self._left_bytes < 0:
                raise http.client.HTTPException(f"informational answers of more than {_MOST_BYTES} bytes")
            if line in (b"\r\n", b"\n", b""):
                return

    def next_status(self) -> tuple[str, int, str]:
        """The first line of whatever comes next."""
        return super()._read_status()  # type: ignore[misc, no-any-return]

    def _read_status(self) -> tuple[str, int, str]:
        limit_s, began = self._line.gettimeout(), time.monotonic()
        while informational((told := self.next_status())[1]):
            self.pass_over()
            if limit_s is not None:
                self._line.settimeout(_left(limit_s, began))
        if self._times:
            self._line.settimeout(limit_s)
        return told


def _left(limit_s: float, began: float) -> float:
    left = limit_s - (time.monotonic() - began)
    if left <= 0:
        raise TimeoutError("informational answers only")
    return left
