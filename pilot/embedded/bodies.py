"""Bodies that the application reads whole: how large they may be, and who reads a large one when."""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from typing import IO

from flask import Request
from werkzeug.exceptions import (
    BadRequest,
    RequestEntityTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    UnsupportedMediaType,
)

from pilot.embedded import documents

_SMALL_BYTES = 2**18
_PIECE_BYTES = 2**16
_RECEIVE_S = 60.0
_TURN_S = 30.0


class Bodies:
    """Large bodies are worked on one at a time, so that many of them need no more memory than one."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def taken(self, request: Request) -> Iterator[None]:
        """Have the body of a request ready for the block, whose end gives the turn to the next.

        Raises werkzeug's exceptions (400, 408, 413, 415, 503) and TooLarge.
        """
        is_packed = _is_packed(request)
        if (request.content_length or 0) > documents.LARGEST:
            raise RequestEntityTooLarge
        body = _received(request)
        size = max(request.content_length or 0, _unpacked_size(body) if is_packed else 0)
        body.seek(0)
        if size <= _SMALL_BYTES:
            yield
            return
        if not self._turn.acquire(timeout=_TURN_S):
            raise ServiceUnavailable
        try:
            yield
        finally:
            self._turn.release()


def _is_packed(request: Request) -> bool:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise UnsupportedMediaType("Content-Encoding: gzip or nothing")
    return encoding == "gzip"


def _received(request: Request) -> IO[bytes]:
    """The body, out of reach of a client that takes its time; the request reads it from here."""
    left, end = request.content_length or 0, time.monotonic() + _RECEIVE_S
    source = request.environ["wsgi.input"]
    body: IO[bytes] = io.BytesIO() if left <= _SMALL_BYTES else tempfile.TemporaryFile()  # noqa: SIM115 - the request's
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
    return body


def _unpacked_size(body: IO[bytes]) -> int:
    """0 for what is no gzip: who reads it will say so. Raises TooLarge."""
    try:
        return documents.unpacked_size(body)
    except (OSError, EOFError, zlib.error):
        return 0
