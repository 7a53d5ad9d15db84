"""Several requests under way to an xrootd server: reading ahead, and writing without waiting for each answer."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Self

from pilot.staging.order import plain
from pilot.staging.worker.xroot.errors import Status, check
from pilot.values.errors import Mismatch, Unreachable

_MOST = 8 << 20
_FIRST = 1 << 20
_AT_ONCE = 4
_QUICK_S = 1.0


class Flight:
    """Requests under way, four at most; they are answered in the order in which they were sent."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: deque[tuple[SimpleQueue[tuple[Status, Any]], Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        """Wait for what is still under way: it writes into memory that would be gone."""
        self.abandon()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one has to land before the next."""
        return len(self) >= _AT_ONCE

    def launch(self, call: Callable[..., Status], keep: Any) -> None:
        """Send one; ``keep`` comes back with its answer (the bindings hold no reference to written bytes)."""
        answer: SimpleQueue[tuple[Status, Any]] = SimpleQueue()
        try:
            check(call(callback=lambda status, response, _hosts: answer.put((status, response))), self._url)
        except ValueError as error:  # the bindings' word for a file that the library has given up meanwhile
            raise Unreachable(f"{plain(self._url)}: the connection broke off") from error
        self._waiting.append((answer, keep))

    def land(self) -> tuple[Any, Any]:
        """Wait for the oldest: its response, and what was kept for it."""
        answer, keep = self._waiting.popleft()
        status, response = answer.get()
        check(status, self._url)
        return response, keep

    def abandon(self) -> None:
        """Wait for all, whatever they answer."""
        while self._waiting:
            self._waiting.popleft()[0].get()


class ReadAhead:
    """An open file in pieces that begin small and grow while they come quickly; from its beginning each time.

    Each request has a time limit of its own: four times 8 MiB would not come within it on a slow line.
    """

    def __init__(self, remote: Any, size: int, url: str, limit_s: int, flight: Flight) -> None:
        self._remote = remote
        self._size = size
        self._url = url
        self._limit_s = limit_s
        self._flight = flight

    def __iter__(self) -> Iterator[bytes]:
        self._flight.abandon()
        if self._size <= _FIRST:  # a thread less to be woken
            return iter([self._at_once()] if self._size else [])
        return self._pieces()

    def _at_once(self) -> bytes:
        status, data = self._remote.read(0, self._size, timeout=self._limit_s)
        check(status, self._url)
        return self._whole(data, self._size)

    def _pieces(self) -> Iterator[bytes]:
        piece, asked = _FIRST, 0
        while self._flight or asked < self._size:
            while asked < self._size and not self._flight.full:
                count = min(piece, self._size - asked)
                self._flight.launch(functools.partial(self._remote.read, asked, count, timeout=self._limit_s), count)
                asked += count
            began = time.monotonic()
            data, count = self._flight.land()
            if time.monotonic() - began < _QUICK_S:
                piece = min(2 * piece, _MOST)
            yield self._whole(data, count)

    def _whole(self, data: bytes, count: int) -> bytes:
        if len(data) != count:
            raise Mismatch(f"{plain(self._url)}: it ended before its {self._size} bytes had come")
        return data


def write(remote: Any, chunks: Iterable[bytes], url: str, limit_s: int) -> None:
    """Write all chunks to an open file, and wait until the server has them."""
    sent = 0
    with Flight(url) as flight:
        for chunk in chunks:
            if flight.full:
                flight.land()
            flight.launch(functools.partial(remote.write, chunk, sent, timeout=limit_s), chunk)
            sent += len(chunk)
        while flight:
            flight.land()
