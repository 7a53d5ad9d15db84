"""Files at http, https, dav or davs URLs: a `Tool` of the lane. How it speaks is in `calls.py`."""

from __future__ import annotations

import binascii
import contextlib
import re
import time
from collections.abc import Iterator, Mapping

from pilot.staging.order import Around, Report, Side, plain
from pilot.staging.worker.remote import DELETE_S, deleted_on_error
from pilot.staging.worker.tool import Content, Source, Stat
from pilot.staging.worker.web import calls, webdav
from pilot.staging.worker.web.resume import Download, announced
from pilot.values.errors import Denied, Exists, FileMissing, StageError

entries = webdav.entries

_BLOCK = 1 << 20
_LEAVE_BYTES = 1 << 16
"""A larger body is not sent before the server has said that it wants it: a refusal in the middle may get lost."""

_NAMES = {"adler32": "adler32|adler", "md5": "md5"}  # RFC 9530 has shortened one
_BYTES = {"adler32": 4, "md5": 16}
_NO_PARENT = (404, 409)
_DELETE_AGAIN_S = (0.0, 0.3, 1.0)


def stat(side: Side, around: Around, kind: str | None, size: int | None = None) -> Stat:
    """Size and checksum of what the server has; it may read all of it before it answers."""
    asked = {} if kind is None else {"Want-Digest": kind, "Want-Repr-Digest": f"{_NAMES[kind].split('|')[-1]}=1"}
    patience_s = around.idle_s if kind is None else around.verify_s(size or 0)
    with calls.answer("HEAD", side, around, headers=asked, idle_s=patience_s) as response:
        return Stat(announced(response.headers), None if kind is None else digest(response.headers, kind))


@contextlib.contextmanager
def reading(side: Side, around: Around, report: Report, *, compared: bool) -> Iterator[Source]:
    """A download, which goes on where it breaks off if that is safe."""
    with Download(side, around, report, compared=compared) as download:
        yield Source(download.size, download, again=True)


@contextlib.contextmanager
def writing(side: Side, content: Content, around: Around, *, overwrite: bool) -> Iterator[None]:
    """An upload. Most servers would overwrite without a word, so that it is for us to look first."""
    if not overwrite:
        _refuse_existing(side, around)
    body = _Body(content)

    def remove() -> None:
        if body.begun:
            delete(side, around)

    def remove_what_comes() -> None:
        # What we have sent may still be on its way to the disk: a server has been seen to make the file after
        # it was asked to delete it.
        if body.begun:
            any(_deleted(side, around, wait_s) for wait_s in _DELETE_AGAIN_S)

    with deleted_on_error(remove_what_comes, spared=()):
        refusal = _put(side, body, around)
    with deleted_on_error(remove):  # what a server has refused it has not begun
        if refusal is not None:
            raise refusal
    with deleted_on_error(remove, spared=()):
        yield


def delete(side: Side, around: Around) -> None:
    """Remove a file from storage, within a few seconds."""
    _deleted(side, around)


def _deleted(side: Side, around: Around, wait_s: float = 0.0) -> bool:
    """Whether there was something to be removed."""
    time.sleep(wait_s)
    brief, idle_s = around._replace(connect_s=min(DELETE_S, around.connect_s)), min(DELETE_S, around.idle_s)
    with contextlib.suppress(FileMissing), calls.answer("DELETE", side, brief, idle_s=idle_s):
        return True
    return False


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


class _Body:
    """What is sent, in blocks; ``begun`` when the first was asked for: then there may be something at the target."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.begun = False

    @property
    def headers(self) -> dict[str, str]:
        """Its length, or that only its end will tell it."""
        size = self._content.size
        length = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        return length | ({"Expect": "100-continue"} if size is None or size > _LEAVE_BYTES else {})

    def __iter__(self) -> Iterator[bytes | memoryview]:
        self.begun = True
        for chunk in self._content:
            view = memoryview(chunk)
            for start in range(0, len(view), _BLOCK):
                yield view[start : start + _BLOCK]


def _put(side: Side, body: _Body, around: Around) -> StageError | None:
    """Send it, a second time if parents had to be made; the server's refusal, if any. Raises what broke it off."""
    for last in (False, True):
        response = calls.send("PUT", side, around, headers=body.headers, body=body)
        calls.finish(response)
        if last or response.status not in _NO_PARENT or not webdav.make_parents(side, around):
            break
    return calls.complaint(response, side.url, "PUT")


def _refuse_existing(side: Side, around: Around) -> None:
    with contextlib.suppress(FileMissing, Denied):  # who may only write cannot look
        found = stat(side, around, None)
        raise Exists(f"{plain(side.url)}: it is there already ({found.size} bytes)")
