"""Bodies that the application reads whole: how large they may be, and who reads a large one when."""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

from flask import Request
from werkzeug.exceptions import (
    BadRequest,
    RequestTimeout,
    ServiceUnavailable,
    UnsupportedMediaType,
)

from pilot.embedded import documents

_SMALL_BYTES = 2**16
_PIECE_BYTES = 2**16
_RECEIVE_S = 60.0
_TURN_S = 30.0


class Bodies:
    """Large bodies are worked on one at a time, so that many of them need no more memory than one."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def taken(self, request: Request, encodings: Sequence[str] = ("gzip",)) -> Iterator[None]:
        """Have the body of a request ready for the block, whose end gives the turn to the next.

        ``encodings`` are those that it may have. Raises werkzeug's exceptions (400, 408, 413, 415, 503) and TooLarge.
        """
        length, is_packed = request.content_length or 0, _is_packed(request, encodings)
        with _room(length) as body:
            _receive(request, body, length)
            size = max(length, _unpacked_size(body) if is_packed else 0)
            body.seek(0)
            with self._its_turn(size):
                yield

    @contextlib.contextmanager
    def _its_turn(self, size: int) -> Iterator[None]:
        if size <= _SMALL_BYTES:
            yield
            return
        if not self._turn.acquire(timeout=_TURN_S):
            raise ServiceUnavailable
        try:
            yield
        finally:
            self._turn.release()


def _room(length: int) -> IO[bytes]:
    return io.BytesIO() if length <= _SMALL_BYTES else tempfile.TemporaryFile()


def _is_packed(request: Request, encodings: Sequence[str]) -> bool:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", *encodings):
        raise UnsupportedMediaType(f"Content-Encoding: {' or '.join(encodings) or 'none'} is understood here")
    return encoding == "gzip"


def _receive(request: Request, body: IO[bytes], left: int) -> None:
    """Put the body out of reach of a client that takes its time; the request reads it from there."""
    source, end = request.environ["wsgi.input"], time.monotonic() + _RECEIVE_S
    while left:
        try:
            piece = source.read(min(left, _PIECE_BYTES))
        except OSError:
            raise RequestTimeout from None
        if not piece:
            raise BadRequest(f"the body ended {left} bytes before its Content-Length")
        body.write(piece)
        left -= len(piece)
        if time.monotonic() > end:
            raise RequestTimeout
    body.seek(0)
    request.environ["wsgi.input"] = body


def _unpacked_size(body: IO[bytes]) -> int:
    """0 for what is no gzip: who reads it will say so. Raises TooLarge."""
    try:
        return documents.unpacked_size(body)
    except (OSError, EOFError, zlib.error):
        return 0
