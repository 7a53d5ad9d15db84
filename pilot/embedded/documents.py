"""What clients send as JSON or gzip, read within limits of what it may become in memory."""

from __future__ import annotations

import gzip
import io
import json
import re
from typing import IO, Any

from werkzeug.wrappers import Request

LARGEST = 2**22
"""How many bytes a body may have, unpacked; files and our own calls are another matter."""
_DEEPEST = 100
_MOST_VALUES = 100_000
_PIECE_BYTES = 2**16
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{,]', re.DOTALL)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class Unreadable(Exception):
    """A document that nobody sends in earnest; the text says what is wrong with it, ``status`` is HTTP's."""

    status = 400


class TooLarge(Unreadable):
    """More bytes than there may be, perhaps only when unpacked."""

    status = 413

    def __init__(self, most: int = LARGEST) -> None:
        super().__init__(f"the body is larger than {most} bytes when unpacked")


def loads(text: str | bytes, *, trusted: bool = False) -> Any:
    """A JSON text's value. Raises ValueError for what is no JSON, Unreadable for what is too deep or too much.

    ``trusted`` callers know what they do with many values, and with halves of characters.
    """
    text = text.decode() if isinstance(text, bytes) else text
    opened = text.count("[") + text.count("{")
    if not trusted and opened + text.count(",") > _MOST_VALUES and _values(text) > _MOST_VALUES:
        raise Unreadable(f"JSON with more than {_MOST_VALUES} values")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise Unreadable(f"JSON that is nested deeper than {_DEEPEST}") from None
    except ValueError as error:  # a number with thousands of digits
        raise Unreadable(f"JSON: {error}") from None
    if opened > _DEEPEST and _is_deep(value):
        raise Unreadable(f"JSON that is nested deeper than {_DEEPEST}")
    if not trusted and _HALF.search(text) and not _is_text(value):
        raise Unreadable("JSON with half of a surrogate pair")
    return value


def sent(request: Request) -> Any:
    """The JSON of a request to our own calls. Raises ValueError, also for another content type, and Unreadable."""
    if request.mimetype != "application/json":
        raise ValueError("Content-Type: must be application/json")
    try:
        return loads(request.get_data(), trusted=True)
    except ValueError as error:
        raise ValueError(f"the body: not JSON: {error}") from None


def _values(text: str) -> int:
    return sum(1 for found in _TOKENS.finditer(text) if found[0][0] != '"')


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for several in inner for one in several]
    return bool(level)


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def unpacked(body: bytes) -> bytes:
    """A gzip body without its compression. Raises OSError, EOFError or zlib.error if it is none, TooLarge."""
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        found = file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise TooLarge
    return found


def unpacked_size(body: IO[bytes]) -> int:
    """How long a gzip body will be, found out without keeping it. Raises as ``unpacked`` does."""
    size = 0
    with gzip.GzipFile(fileobj=body) as file:
        while size <= LARGEST and (piece := file.read(_PIECE_BYTES)):
            size += len(piece)
    if size > LARGEST:
        raise TooLarge
    return size
