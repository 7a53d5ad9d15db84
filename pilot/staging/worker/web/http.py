"""Files at http, https, dav or davs URLs: a `Tool` of the lane. How it speaks is in `calls.py`."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from pilot.staging.order import Around, Report, Side, plain
from pilot.staging.worker.remote import DELETE_S, deleted_on_error, removal
from pilot.staging.worker.tool import Content, Said, Source, Stat
from pilot.staging.worker.web import calls, look, webdav
from pilot.staging.worker.web.resume import Download
from pilot.values.errors import Denied, Exists, FileMissing, Stalled, TransferFailed, Unreachable

entries = webdav.entries
stat = look.stat

_BLOCK = 1 << 20
_LEAVE_BYTES = 1 << 16
"""A larger body is not sent before the server has said that it wants it: a refusal in the middle may get lost."""

_NO_PARENT = (404, 409)
_NO_EXPECT = 417
_DELETE_AGAIN_S = (0.0, 0.3, 1.0)
_RENAMED = (200, 201, 204)


@contextlib.contextmanager
def reading(side: Side, around: Around, report: Report, *, compared: bool) -> Iterator[Source]:
    """A download, which goes on where it breaks off if that is safe."""
    with Download(side, around, report, compared=compared) as download:
        yield Source(download.size, download, again=True)


@contextlib.contextmanager
def writing(
    side: Side, content: Content, around: Around, *, overwrite: bool, old: Stat | None = None
) -> Iterator[Said]:
    """An upload. Most servers would overwrite without a word, so that it is for us to look first."""
    if not overwrite:
        _refuse_existing(side, around)
    body = _Body(content)
    gone = removal(lambda: stat(side, around, "adler32"), lambda: delete(side, around), old)

    def remove() -> None:
        if body.begun:
            delete(side, around)

    def remove_what_comes() -> None:
        # What we have sent may still be on its way to the disk: a server has been seen to make the file after
        # it was asked to delete it.
        if body.begun and old is None:
            any(_deleted(side, around, wait_s) for wait_s in _DELETE_AGAIN_S)
        elif body.begun:
            gone()

    with deleted_on_error(remove_what_comes, spared=()):
        response = _put(side, body, around)
    refusal = calls.complaint(response, side.url, "PUT")
    with deleted_on_error(remove if old is None else remove_what_comes):  # what a server has refused it has not begun
        if refusal is not None:
            raise refusal
    with deleted_on_error(remove, spared=()):
        yield _said(response)


def delete(side: Side, around: Around) -> None:
    """Remove a file from storage, within a few seconds."""
    _deleted(side, around)


def renames(side: Side, new: str, around: Around) -> bool:
    """Whether MOVE is there. Asked of a file that is not there, so that nothing can happen.

    xrootd does it and leaves it out of what it says to OPTIONS. No answer, or a server in trouble, is no refusal. Only
    one that finds the source missing is asked for the true target, which may not be ours to replace.
    """
    nothing = side._replace(url=_with_suffix(side.url, ".none"))
    for target in (_with_suffix(side.url, ".gone"), new):
        headers = {"Destination": calls.address(target), "Overwrite": "F"}
        try:
            response = calls.send("MOVE", nothing, around, headers=headers, idle_s=min(DELETE_S, around.idle_s))
        except (Unreachable, Stalled):
            return True
        calls.finish(response)
        error = calls.complaint(response, side.url, "MOVE")
        if isinstance(error, Denied):
            raise error
        if not isinstance(error, FileMissing):
            return isinstance(error, Exists | Unreachable)
    return True


def rename(side: Side, new: str, around: Around) -> None:
    """Give a file another's name and place."""
    headers = {"Destination": calls.address(new), "Overwrite": "T"}
    with calls.answer("MOVE", side, around, headers=headers) as response:
        if response.status not in _RENAMED:
            raise TransferFailed(f"{plain(new)}: no new name, but HTTP {response.status}")


def _with_suffix(url: str, suffix: str) -> str:
    path, mark, rest = url.partition("?")
    return path + suffix + mark + rest


def _deleted(side: Side, around: Around, wait_s: float = 0.0) -> bool:
    """Whether there was something to be removed."""
    time.sleep(wait_s)
    brief, idle_s = around._replace(connect_s=min(DELETE_S, around.connect_s)), min(DELETE_S, around.idle_s)
    with contextlib.suppress(FileMissing), calls.answer("DELETE", side, brief, idle_s=idle_s):
        return True
    return False


class _Body:
    """What is sent, in blocks; ``begun`` when the first was asked for: then there may be something at the target."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.begun = False
        self.asks = content.size is None or content.size > _LEAVE_BYTES

    @property
    def headers(self) -> dict[str, str]:
        """Its length, or that only its end will tell it."""
        size = self._content.size
        length = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        return length | ({"Expect": "100-continue"} if self.asks else {})

    def __iter__(self) -> Iterator[bytes | memoryview]:
        self.begun = True
        for chunk in self._content:
            view = memoryview(chunk)
            for start in range(0, len(view), _BLOCK):
                yield view[start : start + _BLOCK]


def _put(side: Side, body: _Body, around: Around) -> calls.Response:
    """Send it, again if parents had to be made, or if it has to be sent unasked. Raises what broke it off."""
    response = _sent(side, body, around)
    if response.status == _NO_EXPECT and body.asks:
        body.asks = False
        response = _sent(side, body, around)
    if response.status in _NO_PARENT and webdav.make_parents(side, around):
        response = _sent(side, body, around)
    return response


def _sent(side: Side, body: _Body, around: Around) -> calls.Response:
    response = calls.send("PUT", side, around, headers=body.headers, body=body)
    calls.finish(response)
    return response


def _said(response: calls.Response) -> Said:
    """What the answer to an upload tells of the file. An ETag is its md5 at many servers, and says nothing else."""
    tag = re.fullmatch(r'"([0-9a-fA-F]{32})"', response.headers.get("ETag", "").strip())
    md5 = look.digest(response.headers, "md5") or (tag and tag[1].lower())
    return Said(look.digest(response.headers, "adler32"), md5)


def _refuse_existing(side: Side, around: Around) -> None:
    with contextlib.suppress(FileMissing, Denied, TransferFailed):  # who may only write cannot look
        found = stat(side, around, None)
        raise Exists(f"{plain(side.url)}: it is there already ({found.size} bytes)")
