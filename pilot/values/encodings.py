"""Every way in which a secret may stand in a text: as it is, escaped, quoted for a URL, or in base64.

A secret is a text, or an object whose leaves are. What is shorter than `LEAST` characters cannot be hidden: it
stands in too many texts by chance. Of a secret of several lines each line of `LINE` characters is hidden by itself
too, and each word of `WORD`: so no key is shown line by line. Line breaks count for nothing, as a key and base64 may
be wrapped anywhere; nor does it matter which alphabet of base64 was used.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

LEAST = 6
LINE = 8
WORD = 16

LONGEST = 128
"""Bytes. What is longer is searched for in pieces, so that a search has little to remember."""

_MOST_LEAVES = 1000
_MOST_TEXT = 1 << 18
_CERTIFICATE = re.compile(r"-----BEGIN (?:\w+ )?CERTIFICATE-----[^-]*-----END (?:\w+ )?CERTIFICATE-----")
_BREAKS = b"\r\n"
_ALPHABET = bytes.maketrans(b"-_", b"+/")
_UNKNOWN = (0, 2, 3)  # characters of base64 that other bytes have a part in, by how many of those come first


def normal(text: bytes) -> bytes:
    """The text as needles are searched for in it: without line breaks, with one alphabet of base64."""
    return text.translate(_ALPHABET, _BREAKS)


def needles(secret: object) -> dict[bytes, int]:
    """What to search for, `normal` and in pieces of `LONGEST` bytes, each with its rank: 0 for the likeliest."""
    found: dict[bytes, int] = {}
    for text in _texts(secret):
        for rank, one in [*_whole(text[:_MOST_TEXT]), *_parts(text[:_MOST_TEXT])]:
            for piece in _pieces(normal(one)):
                found[piece] = min(rank, found.get(piece, rank))
    return found


def _texts(secret: object) -> set[str]:
    """The secret's texts: of an object its leaves, and its own text as JSON or Python writes it.

    Of a file with a key and its certificates, such as a proxy, the key.
    """
    if isinstance(secret, str):
        secret = _CERTIFICATE.sub("", secret)
    value = _read(secret) if isinstance(secret, str) else secret
    found = {secret.strip()} if isinstance(secret, str) else set()
    if isinstance(value, (dict, list)):
        found |= {leaf.strip() for leaf in _leaves(value)} | _spelt(value)
    elif not isinstance(value, (str, bool, type(None))):
        found.add(str(value))
    return {text for text in found if len(text) >= LEAST}


def _read(text: str) -> Any:
    """A text that is an object's, as that object."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else text
    except (ValueError, RecursionError):
        return text


def _leaves(value: Any) -> Iterator[str]:
    """Texts and numbers in an object of any depth."""
    inside = [value]
    for _ in range(_MOST_LEAVES):
        if not inside:
            return
        one = inside.pop()
        if isinstance(one, dict):
            inside += one.values()
        elif isinstance(one, list):
            inside += one
        elif one is not None and not isinstance(one, bool):
            yield str(one)


def _spelt(value: Any) -> set[str]:
    try:
        wide = {json.dumps(value), json.dumps(value, ensure_ascii=False)}
        return wide | {json.dumps(value, separators=(",", ":")), repr(value)}
    except (ValueError, RecursionError):
        return set()


def _whole(text: str) -> Iterator[tuple[int, bytes]]:
    raw = _bytes(text)
    yield 0, raw
    for encoded in (raw, _bytes(json.dumps(text)[1:-1])):
        for before, unknown in enumerate(_UNKNOWN):
            yield 1, base64.b64encode(bytes(before) + encoded)[unknown : (before + len(encoded)) * 8 // 6]
    escaped = _escaped(text)
    yield from ((2, _bytes(one)) for one in escaped)
    yield from ((3, _bytes(one)) for one in {json.dumps(one)[1:-1] for one in escaped} | _quoted(text))
    if not text.isascii():
        yield from ((3, one) for one in _misread(text))


def _parts(text: str) -> Iterator[tuple[int, bytes]]:
    """The lines and words of a text that has several."""
    parts = {line.strip() for line in text.splitlines() if len(line.strip()) >= LINE}
    parts |= {word for word in text.split() if len(word) >= WORD}
    for part in parts - {text}:
        if not part.startswith("-----"):  # the lines around a key are no secret
            yield from ((1, _bytes(one)) for one in {part, *_escaped(part)})


def _escaped(text: str) -> set[str]:
    """As JSON, Python and a shell write it between quotes. Where both quotes are in a text, Python escapes one."""
    return {
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        repr("'" + text + '"')[3:-2],
        ascii(text)[1:-1],
        repr(_bytes(text))[2:-1],
        text.replace("'", "'\"'\"'"),
        html.escape(text),
    }


def _quoted(text: str) -> set[str]:
    """As it stands in a URL: with and without slashes, blanks as ``+``, as JavaScript does it; small letters too."""
    raw = _bytes(text)
    found = {quote(raw, safe=safe) for safe in ("/", "", "!'()*~")} | {quote_plus(raw)}
    return found | {re.sub("%..", lambda code: code[0].lower(), one) for one in found}


def _misread(text: str) -> set[bytes]:
    """As it is written, or read, by those who do not know UTF-8."""
    return {
        text.encode("latin-1", "replace"),
        text.encode("ascii", "replace"),
        re.sub("[^\x00-\x7f]", "\ufffd", text).encode(),
    }


def _pieces(needle: bytes) -> Iterator[bytes]:
    """The needle, or pieces of about the same length."""
    count = -(-len(needle) // LONGEST)
    if len(needle) >= LEAST:
        yield from (needle[len(needle) * at // count : len(needle) * (at + 1) // count] for at in range(count))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
