"""A look at a file of a web server: its size, and its checksum where the server keeps one.

What is asked beyond the file itself is optional, and so is the way to ask. A server that does not know Want-Digest
(xrootd without checksums: 405; others: 500) is asked without it, one that gives no HEAD (or none for a URL that is
signed for another method) is asked for a byte of the file, and one that tells no length for the file's properties.
"""

from __future__ import annotations

import binascii
import contextlib
import re
from collections.abc import Mapping

from pilot.staging.order import Around, Side
from pilot.staging.worker.tool import Stat
from pilot.staging.worker.web import calls, webdav
from pilot.staging.worker.web.resume import announced
from pilot.values.errors import StageError, Unreachable

_NAMES = {"adler32": "adler32|adler", "md5": "md5"}  # RFC 9530 has shortened one
_BYTES = {"adler32": 4, "md5": 16}
_NOT_SO = (400, 405, 406, 500, 501)
"""The question may be the trouble, and not the file."""
_NOT_YOU = (401, 403)
_NO_SUCH_RANGE = 416
_ONE_BYTE = {"Range": "bytes=0-0"}


def stat(side: Side, around: Around, kind: str | None, size: int | None = None) -> Stat:
    """Size and checksum of what the server has; it may read all of it before it answers. Raises FileMissing, ..."""
    asked = {} if kind is None else {"Want-Digest": kind, "Want-Repr-Digest": f"{_NAMES[kind].split('|')[-1]}=1"}
    patience_s = around.idle_s if kind is None else around.verify_s(size or 0)
    status, found = _by_head(side, around, asked, kind, patience_s)
    if status in (*_NOT_SO, *_NOT_YOU):
        return _by_get(side, around, asked, kind, patience_s)
    if isinstance(found, StageError):
        raise found
    if found.size is None or (found.size == 0 and size):  # some say 0 for what they do not know
        return found._replace(size=_size_elsewhere(side, around, found.size))
    return found


def digest(headers: Mapping[str, str], kind: str) -> str | None:
    """The checksum of a Digest (RFC 3230) or Repr-Digest header; in hex, even if it came in base64."""
    told = ",".join(headers.get(name, "") for name in ("Repr-Digest", "Digest"))
    digits = 2 * _BYTES[kind]
    for found in re.finditer(rf"(?i)(?:^|[,;\s])(?:{_NAMES[kind]})=(:?)([0-9a-z+/]+=*)\1(?=[,;\s]|$)", told):
        value = found[2]
        if not found[1] and re.fullmatch(rf"(?i)[0-9a-f]{{{1 if kind == 'adler32' else digits},{digits}}}", value):
            return value.lower().rjust(digits, "0")
        with contextlib.suppress(ValueError):
            if len(raw := binascii.a2b_base64(value)) == _BYTES[kind]:
                return raw.hex()
    return None


def _by_head(
    side: Side, around: Around, asked: Mapping[str, str], kind: str | None, patience_s: float
) -> tuple[int, Stat | StageError]:
    """The status and what it says, or what it means; without ``asked`` where that may be the trouble."""
    try:
        response = calls.send("HEAD", side, around, headers=asked, idle_s=patience_s)
    except Unreachable:
        if not asked:
            raise
        return _by_head(side, around, {}, kind, patience_s)  # one may hang up at what it does not know
    calls.finish(response)
    if asked and response.status in _NOT_SO:
        return _by_head(side, around, {}, kind, patience_s)
    error = calls.complaint(response, side.url, "HEAD")
    return response.status, error or _told(response, kind, announced(response.headers))


def _by_get(side: Side, around: Around, asked: Mapping[str, str], kind: str | None, patience_s: float) -> Stat:
    """The same from the head of an answer that would bring the file: a byte of it, or all of it if need be."""
    for headers in (_ONE_BYTE | dict(asked), {}):
        response = calls.send("GET", side, around, headers=headers, idle_s=patience_s)
        response.close()  # what follows may be a whole file
        if headers and response.status in (*_NOT_SO, _NO_SUCH_RANGE):
            continue
        if (error := calls.complaint(response, side.url, "GET")) is not None:
            raise error
        break
    return _told(response, kind, _whole_size(response))


def _told(response: calls.Response, kind: str | None, size: int | None) -> Stat:
    return Stat(size, None if kind is None else digest(response.headers, kind))


def _whole_size(response: calls.Response) -> int | None:
    if response.status != 206:
        return announced(response.headers)
    found = re.fullmatch(r"bytes +[\d-]+/(\d{1,18})", response.headers.get("Content-Range", "").strip())
    return None if found is None else int(found[1])


def _size_elsewhere(side: Side, around: Around, told: int | None) -> int | None:
    """The size by other questions; ``told`` if they are not answered either."""
    for ask in (webdav.size_of, _size_by_get):
        with contextlib.suppress(StageError):
            if (size := ask(side, around)) is not None:
                return size
    return told


def _size_by_get(side: Side, around: Around) -> int | None:
    return _by_get(side, around, {}, None, around.idle_s).size
