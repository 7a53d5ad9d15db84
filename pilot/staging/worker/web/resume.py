"""A download that goes on where it broke off, as long as it is certain to be the same file."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Self

from pilot.staging.order import Around, Report, Side, plain
from pilot.staging.worker.web import calls
from pilot.staging.worker.web.pool import listen_for
from pilot.values.errors import StageError, Stalled, TransferFailed, Unreachable

_MOST = 8
_PAUSE_S = 0.2
_LEAST, _LARGEST = 1 << 16, 1 << 20
_QUICK_S, _SLOW_S = 0.1, 1.0
_SETTLED_S = 10.0


class Download:
    """The bytes of a file at a web server, as an iterable that begins with the first each time.

    ``size`` is what the server has announced, None if it has not. Reading goes on with a request for the rest
    if the server tells versions apart; or if ``compared``, so that a byte of another version would be noticed.
    """

    def __init__(self, side: Side, around: Around, report: Report, *, compared: bool) -> None:
        self._side = side
        self._around = around
        self._report = report
        self._compared = compared
        # The parent gives up after idle_s without a byte: the second half of it is for the request that goes on.
        self._half_s = around.idle_s / 2
        self._begun = False
        self.size: int | None = None
        self._version = ""
        self._response: calls.Response

    def __enter__(self) -> Self:
        """Ask for it. Raises FileMissing, Denied, ..."""
        self._begin()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the connection, unless all was read: then it is kept."""
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        if self._begun:
            before = self.size, self._version
            self._response.close()
            self._begin()
            if (self.size, self._version) != before:
                raise Unreachable(f"{plain(self._side.url)}: it has changed since it was read first")
        self._begun = True
        while (broken := (yield from self._rest())) is not None:
            self._go_on(broken)

    def _begin(self) -> None:
        self._begun = False
        self._at = self._went_on_at = self._times = 0
        self._response = self._ask({}, 200, self._around.idle_s)
        headers = self._response.headers
        self.size = announced(headers)
        self._version = version(headers)
        told = self._version != "" or (self._compared and self.size is not None)
        self._resumable = told and headers.get("Accept-Ranges", "bytes").strip().lower() != "none"
        if self._resumable:
            listen_for(self._response, self._half_s)

    def _ask(self, headers: Mapping[str, str], status: int, idle_s: float) -> calls.Response:
        response = calls.send("GET", self._side, self._around, headers=headers, idle_s=idle_s)
        error = calls.complaint(response, self._side.url, "GET")
        if error is None and response.status != status:
            error = TransferFailed(f"{plain(self._side.url)}: HTTP {response.status} instead of {status}")
        if error is not None:
            response.close()  # what follows may be a whole file
            raise error
        return response

    def _rest(self) -> Generator[bytes, None, StageError | None]:
        """What comes until the end (None), or until it breaks off: then the error is the generator's value."""
        try:
            with calls.errors(self._side.url):
                for piece in _pieces(self._response):
                    self._at += len(piece)
                    yield piece
        except (Unreachable, Stalled) as error:
            return error
        return None

    def _go_on(self, broken: StageError) -> None:
        """Ask for the rest; raise what has broken it off if that makes no sense."""
        if not self._resumable or self._at == self._went_on_at or self._times == _MOST:
            raise broken
        self._times += 1
        self._went_on_at = self._at
        time.sleep(_PAUSE_S)
        last = "" if self.size is None else self.size - 1  # xrootd 5.5 sends nothing of a range without an end
        headers = {"Range": f"bytes={self._at}-{last}"} | ({"If-Range": self._version} if self._version else {})
        self._response.close()
        try:
            self._response = self._ask(headers, 206, self._half_s)
            self._check_range(self._response.headers)
        except TransferFailed as error:  # 200, 412 or 416: another version, or no ranges after all
            raise type(broken)(f"{plain(str(broken))}; and it does not go on: {plain(str(error))}") from error
        self._report.note("resumed a download that broke off", bytes=self._at, why=plain(str(broken)))

    def _check_range(self, headers: Mapping[str, str]) -> None:
        told = headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes +([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", told.strip())
        if found is None:
            raise TransferFailed(f"no Content-Range that can be read: {told[:80]!r}")
        start, last = int(found[1]), int(found[2])
        total = int(found[3]) if found[3] != "*" else None
        size = self.size if self.size is not None else total
        if start != self._at or last + 1 != size or total not in (None, size):
            raise TransferFailed(f"bytes {self._at} to the last were asked for, and {told[:80]} is sent")
        if self._version[:1] == '"' and headers.get("ETag", self._version) != self._version:
            raise TransferFailed("it has changed meanwhile")


def announced(headers: Mapping[str, str]) -> int | None:
    """The Content-Length; None if there is none that can be read."""
    length = headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def version(headers: Mapping[str, str]) -> str:
    """What marks this version of the file so that the server can tell it from any other (RFC 9110, 8.8); "" if nothing.

    A date does if it was old already when it was told: a file may change twice in one second.
    """
    tag = headers.get("ETag", "").strip()
    if re.fullmatch(r'"[^"]*"', tag):
        return tag
    modified = headers.get("Last-Modified", "").strip()
    then, now = calls.unix_time(modified), calls.unix_time(headers.get("Date", ""))
    return modified if then is not None and now is not None and now - then >= _SETTLED_S else ""


def _pieces(response: calls.Response) -> Iterator[bytes]:
    """The raw body, in pieces that are small on a slow line: each of them is a sign of life."""
    count = _LEAST
    while True:
        began = time.monotonic()
        piece = response.read(count)
        if not piece:
            return
        took = time.monotonic() - began
        yield piece
        if took < _QUICK_S:
            count = min(2 * count, _LARGEST)
        elif took > _SLOW_S:
            count = max(count // 2, _LEAST)
