"""Metalinks: documents that name the replicas of a file (RFC 5854, and what came before it as version 3.0).

Anybody may have written one, so nothing in it is believed beyond its form: it is bounded, and a DOCTYPE, where
entities that blow up are declared, is refused. ``location`` is a country's code, which no queue has, so it is not
used; a metalink that names further metalinks is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from pilot.values.names import Checksum, Url, quoted

MOST_BYTES = 1 << 20
SUFFIXES = (".meta4", ".metalink")

_LAST = 999_999
"""The priority of a URL that names none (RFC 5854, 4.2.16.1)."""

_MOST_PREFERRED = 100
"""Version 3.0 counts the other way round."""


class MetalinkError(ValueError):
    """A document that cannot be used; its text fits behind the document's URL."""


@dataclass(frozen=True, slots=True)
class Metalink:
    """One file: where it lies, the best first, and what is known of it (at most one checksum of each kind)."""

    urls: tuple[Url, ...]
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


def is_metalink(path: str) -> bool:
    """Whether a file is a metalink, by its name."""
    return path.lower().endswith(SUFFIXES)


def parse(content: bytes, name: str) -> Metalink:
    """Read the file called ``name``, or else the first one. Raises MetalinkError."""
    if len(content) > MOST_BYTES:
        raise MetalinkError(f"it has more than {MOST_BYTES} bytes")
    try:
        root = ET.fromstring(content, parser=ET.XMLParser(target=_Builder()))  # noqa: S314 - no DOCTYPE, so no entities; the size is bounded
    except (ET.ParseError, LookupError, ValueError) as error:
        raise MetalinkError(f"it cannot be read: {str(error)[:100]}") from None
    if _tag(root) != "metalink":
        raise MetalinkError(f"it is no metalink, but {quoted(_tag(root))}")
    files = [*_children(root, "file"), *(one for group in _children(root, "files") for one in _children(group, "file"))]
    if not files:
        raise MetalinkError("it names no file")
    return _file(next((one for one in files if one.get("name") == name), files[0]))


class _Builder(ET.TreeBuilder):
    def doctype(self, _name: str, _pubid: str | None, _system: str | None) -> None:
        raise MetalinkError("it has a DOCTYPE")


def _file(element: ET.Element) -> Metalink:
    ranked = [*_urls(element), *(one for group in _children(element, "resources") for one in _urls(group))]
    urls = tuple(dict.fromkeys(url for _, url in sorted(ranked, key=lambda pair: pair[0])))
    if not urls:
        raise MetalinkError("it names no URL that we can read")
    sums = [*_checksums(element), *(one for group in _children(element, "verification") for one in _checksums(group))]
    return Metalink(urls, _size(element), tuple({one.kind: one for one in reversed(sums)}.values()))


def _urls(parent: ET.Element) -> Iterator[tuple[int, Url]]:
    """URLs with their ranks; those of other schemes (ftp, magnet, ...) are others' business."""
    for element in _children(parent, "url"):
        try:
            url = Url(_text(element))
        except ValueError:
            continue
        if not is_metalink(url.path):
            yield _priority(element), url


def _priority(element: ET.Element) -> int:
    """1 is the best."""
    given, preference = element.get("priority", ""), element.get("preference", "")
    if re.fullmatch("[0-9]{1,6}", given):
        return int(given)
    if re.fullmatch("[0-9]{1,3}", preference):
        return 1 + max(0, _MOST_PREFERRED - int(preference))
    return _LAST


def _size(element: ET.Element) -> int | None:
    text = next((_text(one) for one in _children(element, "size")), "")
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise MetalinkError(f"{quoted(text)} is not a size in bytes")
    return int(text)


def _checksums(parent: ET.Element) -> Iterator[Checksum]:
    """Of the kinds that storages tell."""
    for element in _children(parent, "hash"):
        kind = element.get("type", "").lower().replace("-", "")
        if kind in ("adler32", "md5"):
            try:
                yield Checksum.parse(f"{kind}:{_text(element)}")
            except ValueError as error:
                raise MetalinkError(str(error)) from None


def _children(parent: ET.Element, tag: str) -> Iterator[ET.Element]:
    return (one for one in parent if _tag(one) == tag)


def _tag(element: ET.Element) -> str:
    """Without its namespace: versions differ in that."""
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element) -> str:
    return (element.text or "").strip()
