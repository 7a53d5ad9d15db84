"""Directories of web servers: listed by PROPFIND, made by MKCOL (RFC 4918)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit
from xml.etree.ElementTree import ParseError, XMLParser

from pilot.staging.order import Around, Entry, Side, plain
from pilot.staging.worker.web import calls
from pilot.values.errors import TransferFailed

_LARGEST = 64 << 20
_PIECE = 1 << 16
_DEEPEST = 50
_ASK = (
    b'<?xml version="1.0" encoding="utf-8"?>\n'
    b'<propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/></prop></propfind>'
)


def entries(side: Side, around: Around) -> Iterator[Entry]:
    """All files below a directory, recursively. Raises FileMissing; TransferFailed for a file."""
    yield from _walk(side, around, "", _DEEPEST)


def size_of(side: Side, around: Around) -> int | None:
    """The size of a file, as its properties tell it; None if they do not."""
    asked, found = _listed(side, around, depth="0")
    sizes = [one.size for one in found if not one.folder and _segments(one.path) == _segments(asked)]
    return sizes[0] if sizes else None


def make_parents(side: Side, around: Around) -> bool:
    """Make the directories above a file that are not there; whether they are now.

    One that is there by now (405) may have been made by another pod meanwhile, so that it counts as well.
    """
    parts = urlsplit(side.url)
    folder = parts.path.rstrip("/").rpartition("/")[0]
    if not folder.strip("/"):
        return False
    # A query may hold the authorisation for just the file, and is kept for want of another.
    above = side._replace(url=parts._replace(path=folder + "/").geturl())
    for second in (False, True):
        response = calls.send("MKCOL", above, around)
        calls.finish(response)
        if response.status != 409 or second or not make_parents(above, around):
            return response.status in (201, 405)
    return False


class _Found(NamedTuple):
    """One resource of an answer: its path as it was told."""

    path: str
    folder: bool
    size: int | None


def _walk(side: Side, around: Around, prefix: str, deepest: int) -> Iterator[Entry]:
    if not deepest:
        raise TransferFailed(f"{plain(side.url)}: its directories are nested too deeply")
    asked, found = _listed(side, around)
    named = [(_name(one.path, asked, side.url), one) for one in found]
    for name, one in sorted(named, key=lambda pair: pair[0] or ""):
        if name is None:
            if not one.folder:
                raise TransferFailed(f"{plain(side.url)}: it is not a directory")
        elif one.folder:
            yield from _walk(_below(side, name), around, f"{prefix}{name}/", deepest - 1)
        else:
            yield Entry(prefix + name, one.size)


def _listed(side: Side, around: Around, depth: str = "1") -> tuple[str, list[_Found]]:
    """The path that was asked for at last, and what is told of it and, with ``depth`` 1, of what is directly in it."""
    headers = {"Depth": depth, "Content-Type": "application/xml", "Content-Length": str(len(_ASK))}
    listing = _Listing()
    parser = XMLParser(target=listing)  # noqa: S314 - entities need a DOCTYPE, which `_Listing` refuses
    with calls.answer("PROPFIND", side, around, headers=headers, body=[_ASK]) as response:
        if response.status != 207:
            raise TransferFailed(f"{plain(side.url)}: no list of a directory, but HTTP {response.status}")
        left = _LARGEST
        try:
            while piece := response.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise TransferFailed(f"{plain(side.url)}: its list has more than {_LARGEST} bytes")
                parser.feed(piece)
            parser.close()
        except (ParseError, ValueError, LookupError) as error:  # the last: an encoding that nobody knows
            raise TransferFailed(
                f"{plain(side.url)}: its list of a directory cannot be read: {str(error)[:100]}"
            ) from error
        return urlsplit(response.url or "").path, listing.found


def _name(path: str, folder: str, url: str) -> str | None:
    """The name of what is in a directory, by both paths as they were told; None for the directory itself."""
    here, there = _segments(folder), _segments(path)
    if there == here:
        return None
    name = there[-1] if there else ""
    if there[:-1] != here or name in (".", "..") or "/" in name or not name.isprintable():
        raise TransferFailed(f"{plain(url)}: its list names {plain(path, 100)!r}, which is not in it")
    return name


def _segments(path: str) -> list[str]:
    """Decoded one by one: an encoded slash is a part of a name. xrootd does not encode, which is no harm mostly."""
    if "://" in path:
        with suppress(ValueError):  # what is no address names nothing in a directory
            path = urlsplit(path).path
    return [unquote(part) for part in path.split("/") if part]


def _below(side: Side, name: str) -> Side:
    parts = urlsplit(side.url)
    return side._replace(url=parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}/").geturl())


class _Listing:
    """A target of the XML parser: the resources of a multistatus, one after the other, without a tree of it."""

    def __init__(self) -> None:
        self.found: list[_Found] = []
        self._text: list[str] = []
        self._path = ""
        self._folder = False
        self._size: int | None = None

    def doctype(self, *_args: object) -> None:
        raise ValueError("it has a DOCTYPE")

    def start(self, tag: str, _attributes: object) -> None:
        self._text.clear()
        match tag:
            case "{DAV:}response":
                self._path, self._folder, self._size = "", False, None
            case "{DAV:}collection":
                self._folder = True

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self._text).strip()
        match tag:
            case "{DAV:}href":
                self._path = self._path or text
            case "{DAV:}getcontentlength" if text.isascii() and text.isdigit():
                self._size = int(text)
            case "{DAV:}response":
                self.found.append(_Found(self._path, self._folder, self._size))

    def close(self) -> None:
        """The parser asks for this."""
