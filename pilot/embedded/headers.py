"""Request headers, read strictly: what two readers might understand differently is refused."""

from __future__ import annotations

import re
from typing import Any

from cheroot.server import HTTPRequest

_MOST = 100
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = {
    b"Authorization",
    b"Content-Encoding",
    b"Content-Length",
    b"Content-Type",
    b"Expect",
    b"Host",
    b"Origin",
    b"Range",
    b"Transfer-Encoding",
}


def read(lines: Any, found: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
    """The headers up to the empty line. Raises ValueError for what is no header, or too many of them.

    Names with an underscore are passed over: in the WSGI environment they look like those with a dash.
    """
    found = {} if found is None else found
    for _ in range(_MOST + 1):
        line = lines.readline()
        if line == b"\r\n":
            return _checked(found)
        name, value = _header(line)
        if name in found and name in _ONCE:
            raise ValueError(f"More than one header {name.decode('ascii')}.")
        if b"_" not in name:
            found[name] = b", ".join((found[name], value)) if name in found else value
    raise ValueError(f"More than {_MOST} headers.")


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not (colon and line.endswith(b"\r\n") and _NAME.fullmatch(name)):
        raise ValueError("Illegal header line.")
    value = value.strip(b" \t\r\n")
    if not _VALUE.fullmatch(value):
        raise ValueError("Illegal character in a header.")
    return name.title(), value


def _checked(found: dict[bytes, bytes]) -> dict[bytes, bytes]:
    length = found.get(b"Content-Length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise ValueError("Malformed Content-Length Header.")
    if length is not None and b"Transfer-Encoding" in found:
        raise ValueError("Both Content-Length and Transfer-Encoding.")
    return found


class StrictRequest(HTTPRequest):
    """A request whose headers are read so."""

    header_reader = staticmethod(read)
