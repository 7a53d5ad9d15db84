"""Moves between root, roots or xroot URLs and local files, by the XRootD bindings.

`File.read` with several requests under way instead of `CopyProcess`: the checksum is taken in the same pass
(twice as fast as CopyProcess with its own comparison), and errors come with the server's number. The time
limits are environment variables, which the library reads when it is imported: the parent sets them.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any, BinaryIO, Self

from XRootD import client as _client
from XRootD.client.flags import AccessMode, OpenFlags, QueryCode

from pilot.staging.checksum import Digest
from pilot.staging.order import Around, Done, Order, Report, path_of, plain
from pilot.staging.partial import Partial, local_errors, open_regular, size_of
from pilot.staging.remote import DELETE_S, deleted_on_error, verify
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    Mismatch,
    NoSpace,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)

_MOST = 8 << 20
_FIRST = 1 << 20
_PIECE = 4 << 20
_AT_ONCE = 4
_QUICK_S = 1.0
_LONGEST_S = 0xFFFF  # the library keeps limits in 16 bits
_MODE = AccessMode.UR | AccessMode.UW | AccessMode.GR | AccessMode.OR

_SERVER_SAID = 400
_HAS_ERRNO = (_SERVER_SAID, 402)
_TELLING_ERRNOS = (3010, 3011, 3012)
_BY_ERRNO: dict[int, type[StageError]] = {
    28: NoSpace,  # a plain errno of the local side
    3009: NoSpace,
    3010: Denied,
    3011: FileMissing,
    3012: Unreachable,  # the server's own trouble, such as too many checksums at once
    3018: Exists,
    3019: Mismatch,
    3024: Unreachable,
    3030: Denied,
}
_BY_CODE: dict[int, type[StageError]] = {
    101: Unreachable,
    102: Unreachable,
    103: Stalled,  # connected, and no answer
    104: Unreachable,
    107: Unreachable,
    108: Unreachable,
    203: Denied,
    204: Denied,
    206: Stalled,  # also a broken connection: the library reconnects until the limit
    304: FileMissing,
    305: Mismatch,
}

_IN_OTHER_WORDS = {110: "the TLS handshake failed; most often, the server's certificate is not accepted"}
"""Where the library's own message leads astray: it says "resource temporarily unavailable" there."""

client: Any = _client  # the bindings say that they are typed, and are not
Status = Any
"""An XRootDStatus."""


def fetch(order: Order, report: Report, around: Around) -> Done:
    """Download; without a checksum in the catalogue, the server is asked for its own."""
    digest = Digest.of(order)
    with _opened(order.source, OpenFlags.READ) as remote:
        size = _size(remote, order.source)
        if order.size is not None and order.size != size:
            raise Mismatch(f"{plain(order.source)}: it has {size} bytes, the catalogue says {order.size}")
        with Partial(path_of(order.destination)) as part:
            part.write(b"")
            with contextlib.closing(_read_ahead(remote, size, order.source)) as chunks:
                for chunk in chunks:
                    digest.update(chunk)
                    part.write(chunk)
                    report.moved(digest.size)
            done = digest.check(order, order.source)
            if order.checksum is None:
                report.verifying(size)
                done = digest.agree(order.source, size, _checksum(order.source, size, around))
            part.settle()
    return done


def store(order: Order, report: Report, around: Around) -> Done:
    """Upload over whatever is there, then ask the server for size and checksum; what went wrong is deleted."""
    url = order.destination
    with open_regular(path_of(order.source)) as file, deleted_on_error(lambda: delete(url, around)):
        digest = _send(file, order, report)
        digest.check(order, order.source)
        report.verifying(digest.size)
        return verify(url, digest, lambda: _stored(url, digest.size, around))


def delete(url: str, _around: Around) -> None:
    """Remove a file from storage, within a few seconds."""
    system, path = _place(url)
    with contextlib.suppress(FileMissing):
        _check(system.rm(path, timeout=int(DELETE_S))[0], url)


class _Flight:
    """Requests under way, four at most; they are answered in the order in which they were sent."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: deque[tuple[SimpleQueue[tuple[Status, Any]], Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        """Wait for what is still under way: it writes into memory that would be gone."""
        while self._waiting:
            self._waiting.popleft()[0].get()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one has to land before the next."""
        return len(self) >= _AT_ONCE

    def launch(self, call: Callable[..., Status], keep: Any) -> None:
        """Send one; ``keep`` comes back with its answer (the bindings hold no reference to written bytes)."""
        answer: SimpleQueue[tuple[Status, Any]] = SimpleQueue()
        _check(call(callback=lambda status, response, _hosts: answer.put((status, response))), self._url)
        self._waiting.append((answer, keep))

    def land(self) -> tuple[Any, Any]:
        """Wait for the oldest: its response, and what was kept for it."""
        answer, keep = self._waiting.popleft()
        status, response = answer.get()
        _check(status, self._url)
        return response, keep


def _read_ahead(remote: Any, size: int, url: str) -> Generator[bytes, None, None]:
    """The file in pieces that begin small and grow while they come quickly.

    Each request has a time limit of its own: four times 8 MiB would not come within it on a slow line.
    """
    piece, asked = _FIRST, 0
    with _Flight(url) as flight:
        while flight or asked < size:
            while asked < size and not flight.full:
                count = min(piece, size - asked)
                flight.launch(functools.partial(remote.read, asked, count), count)
                asked += count
            began = time.monotonic()
            data, count = flight.land()
            if len(data) != count:
                raise Mismatch(f"{plain(url)}: it ended before its {size} bytes had come")
            if time.monotonic() - began < _QUICK_S:
                piece = min(2 * piece, _MOST)
            yield data


def _send(file: BinaryIO, order: Order, report: Report) -> Digest:
    """Write the whole file to its destination, and close it there."""
    digest, url, landed = Digest.of(order), order.destination, 0
    with _opened(url, OpenFlags.DELETE | OpenFlags.MAKEPATH, _MODE) as remote:
        with _Flight(url) as flight:
            for chunk in _pieces(file, order):
                if flight.full:
                    landed += len(flight.land()[1])
                flight.launch(functools.partial(remote.write, chunk, digest.size), chunk)
                digest.update(chunk)
                report.moved(landed)
            while flight:
                landed += len(flight.land()[1])
                report.moved(landed)
        _check(remote.close()[0], url)  # some servers tell only now that they could not keep it
    return digest


def _pieces(file: BinaryIO, order: Order) -> Iterator[bytes]:
    """The file as long as it is now; Mismatch if it shrinks meanwhile."""
    left = size_of(file)
    while left:
        with local_errors(path_of(order.source)):
            chunk = file.read(min(_PIECE, left))
        if not chunk:
            raise Mismatch(f"{path_of(order.source)}: it lost {left} bytes while it was sent")
        left -= len(chunk)
        yield chunk


@contextlib.contextmanager
def _opened(url: str, flags: int, mode: int = 0) -> Iterator[Any]:
    remote = client.File()
    _check(remote.open(url, flags, mode)[0], url)
    try:
        yield remote
    finally:
        remote.close()


def _size(remote: Any, url: str) -> int:
    status, found = remote.stat()
    _check(status, url)
    return int(found.size)


def _stored(url: str, size: int, around: Around) -> tuple[int, str | None]:
    """Size and adler32 of what the server has."""
    system, path = _place(url)
    status, found = system.stat(path)
    _check(status, url)
    return int(found.size), _checksum(url, size, around) if found.size else None


def _checksum(url: str, size: int, around: Around) -> str | None:
    """The server's adler32 of its file; None if it keeps none."""
    system, path = _place(url)
    wanted = f"{path}{'&' if '?' in path else '?'}cks.type=adler32"
    status, response = system.query(QueryCode.CHECKSUM, wanted, timeout=min(int(around.verify_s(size)), _LONGEST_S))
    if not status.ok and status.code == _SERVER_SAID and status.errno not in _TELLING_ERRNOS:
        return None
    _check(status, url)
    kind, _, value = bytes(response).rstrip(b"\0 \n").decode("ascii", "replace").partition(" ")
    return value.strip().lower().rjust(8, "0") if kind == "adler32" else None


def _place(url: str) -> tuple[Any, str]:
    """The server, and the path there with its parameters."""
    parts = client.URL(url)
    return client.FileSystem(f"{parts.protocol}://{parts.hostid}"), parts.path_with_params


def _check(status: Status, url: str) -> None:
    """Raise what a status means, unless it is a good one."""
    if status.ok:
        return
    numbers, number = (_BY_ERRNO, status.errno) if status.code in _HAS_ERRNO else (_BY_CODE, status.code)
    kind = numbers.get(number, TransferFailed)
    text = plain(_IN_OTHER_WORDS.get(number, status.message))
    raise kind(f"{plain(url)}: {text} ({number})")
