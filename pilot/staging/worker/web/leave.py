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
import time
from typing import TYPE_CHECKING, Any, ClassVar

from pilot.net.final import FinalResponse, informational

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
        if asked:
            self._early = _Answer(self.line, method="PUT")
            if not self._early.leave():
                raise BrokenPipeError

    def response_class(self, *args: Any, **more: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """The answer that has been begun with, or a new one."""
        early, self._early = self._early, None
        return early or FinalResponse(*args, **more)

    def close(self) -> None:
        """Close all that is ours."""
        super().close()
        early, self._early = self._early, None
        if early is not None:
            early.close()


class _Answer(FinalResponse):
    """An answer whose first line is read ahead."""

    _told: tuple[str, int, str] | None = None
    _refused = False

    def leave(self) -> bool:
        """Whether the body may be sent: the server says so, or nothing to the point within a second.

        One of before HTTP/1.1 waits for the body. If not, what follows is the answer.
        """
        until = time.monotonic() + _LEAVE_S
        while self._speaks(until):
            told = self.next_status()
            if not informational(told[1]):
                self._told, self._refused = told, True
                return False
            self.pass_over()
            if told[1] == http.client.CONTINUE:
                break
        return True

    def begin(self) -> None:
        """Read the head of the answer."""
        super().begin()
        if self._refused:  # the server may wait for the body, or not: nobody knows
            self.will_close = True

    def next_status(self) -> tuple[str, int, str]:
        """The first line that was read ahead, or the next."""
        told, self._told = self._told, None
        return told or super().next_status()

    def _speaks(self, until: float) -> bool:
        """Whether there is something to be read, or the end of all, before ``until``."""
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        if self._buffered():  # which poll does not see
            return True
        while (left := until - time.monotonic()) > 0 and poll.poll(left * 1000):
            if self._buffered() is not None:
                return True
        return False

    def _buffered(self) -> bytes | None:
        """What can be read without waiting; b"" also for the end; None for a record that is TLS's own business."""
        limit_s = self._line.gettimeout()
        self._line.settimeout(0)
        try:
            return self.fp.peek(1)
        except ssl.SSLWantReadError:
            return None
        finally:
            self._line.settimeout(limit_s)
