"""Leave to send a body: a connection that waits for the server's 100 Continue where that was asked for.

RFC 9110, 10.1.1; neither urllib3 nor http.client does it. A server that refuses an upload answers at once and
hangs up: whoever has begun to send gets a broken connection, over TLS often without the answer, and would try
it again and again.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any, ClassVar

_LEAVE_S = 1.0

if TYPE_CHECKING:
    _Connection = http.client.HTTPConnection
else:
    _Connection = object


class Asking(_Connection):
    """Stands before the class of a connection.

    It also gives the body of a request as long as its answer (``send_s``), where the library's own limit would be
    the one for connecting; and it keeps the socket (``line``), which the connection forgets before the body of a
    last answer is read.
    """

    send_s: ClassVar[float]
    line: socket.socket
    _asked = False
    _early: _Answer | None = None

    def putheader(self, header: str | bytes, *values: Any) -> None:
        """Note what is asked for."""
        super().putheader(header, *values)
        self._asked = self._asked or header == "Expect"

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        """Send the head of the request. A refusal of the body is raised as BrokenPipeError.

        urllib3 takes that for a server that has heard enough, and reads its answer.
        """
        super().endheaders(*args, **kwargs)
        self.line = self.sock
        self.line.settimeout(self.send_s)
        asked, self._asked = self._asked, False
        if asked and _says_something(self.line):
            self._early = _Answer(self.line, method="PUT")
            if not self._early.leave():
                raise BrokenPipeError

    def response_class(self, *args: Any, **more: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """The answer that has been begun with, or a new one."""
        early, self._early = self._early, None
        return early or http.client.HTTPResponse(*args, **more)

    def close(self) -> None:
        """Close all that is ours."""
        super().close()
        early, self._early = self._early, None
        if early is not None:
            early.close()


def _says_something(sock: socket.socket) -> bool:
    """Whether an answer comes within a second; a server of before HTTP/1.1 waits for the body."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(_LEAVE_S * 1000))


class _Answer(http.client.HTTPResponse):
    """An answer whose first line is read ahead."""

    _told: tuple[str, int, str] | None = None
    _refused = False

    def leave(self) -> bool:
        """Whether the body is wanted; else what follows is the answer."""
        told = self._read_status()
        if told[1] == http.client.CONTINUE:
            http.client.parse_headers(self.fp)
            return True
        self._told, self._refused = told, True
        return False

    def begin(self) -> None:
        """Read the head of the answer."""
        super().begin()
        if self._refused:  # the server may wait for the body, or not: nobody knows
            self.will_close = True

    def _read_status(self) -> tuple[str, int, str]:
        told, self._told = self._told, None
        return told or super()._read_status()  # type: ignore[misc]
