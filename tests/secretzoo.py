"""Secrets of all shapes, and every way in which one may stand in a text."""

from __future__ import annotations

import base64
import html
import json
import textwrap
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

PEM = "\n".join(
    [
        "-----BEGIN RSA PRIVATE KEY-----",
        *textwrap.wrap(base64.b64encode(bytes(range(7, 217)) * 3).decode(), 64),
        "-----END RSA PRIVATE KEY-----",
        "",
    ]
)

SHAPES: dict[str, Any] = {
    "plain": "ZooPlain7Jq2xW9vKd",
    "quote": 'zoo"quo\'te"5hGtR',
    "backslash": "zoo\\back\\\\slash\\n8Kq",
    "line break": "zoo-first-line-4Fz\nzoo-second-line-9Pl\r\nzoo-third\ttab",
    "letters": "zöo-pässwörd-ß€-𝄞-3Vb",
    "object": {"private_key": 'zoo"leaf\\one\n6Tr', "nested": [{"id": "zoo-leaf-two-1Lm", "n": 7}, "zoo-leaf-ü-2Nb"]},
    "object as text": '{"user": "zoo-user-5Gh", "password": "zoo pass/word+5Gh=="}',
    "key": PEM,
    "url": "zoo+/=&%25?#;:@ 7Yh",
    "long": base64.urlsafe_b64encode(bytes(range(256)) * 4).decode(),
    "six": "zq7%Wk",
    "markup": "zoo[red]<b>&amp;[/red]2Xc",
}


def texts_of(secret: Any) -> list[str]:
    """The texts of a secret that must not be seen: of an object its leaves."""
    if isinstance(secret, str) and secret.startswith("{"):
        secret = json.loads(secret)
    if isinstance(secret, dict | list):
        inside = secret.values() if isinstance(secret, dict) else secret
        return [text for one in inside for text in texts_of(one)]
    return [secret.strip()] if isinstance(secret, str) else []


def spellings(secret: Any) -> Iterator[str]:
    """Each of its texts, and each line of it, in each of the forms in which it may be met."""
    for text in texts_of(secret):
        lines = [line for line in text.splitlines() if len(line) >= 8 and not line.startswith("-----")]
        escaped = [form for one in dict.fromkeys([text, *lines]) for form in _escaped(one)]
        yield from dict.fromkeys([*escaped, *_for_urls(text), *_in_base64(text)])


def _escaped(text: str) -> Iterator[str]:
    yield text
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield repr(text.encode())[2:-1]
    yield html.escape(text)


def found(secret: Any, content: bytes) -> list[str]:
    """The spellings that stand in a file."""
    return [one for one in spellings(secret) if one.encode("utf-8", "surrogatepass") in content]


def _for_urls(text: str) -> Iterator[str]:
    for one in (quote(text), quote(text, safe=""), quote_plus(text)):
        yield one
        yield _small(one)


def _small(quoted: str) -> str:
    first, *rest = quoted.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _in_base64(text: str) -> Iterator[str]:
    """What of the encoded text depends on nothing else, wherever the text begins among three bytes."""
    for before, unknown in enumerate((0, 2, 3)):
        raw = text.encode()
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + raw)[unknown : (before + len(raw)) * 8 // 6].decode()
