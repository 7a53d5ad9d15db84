"""Makes hostile input out of good examples: values of other types, sizes and depths, and bytes that were spoilt.

A `Mutator` is one case. All it does comes from its random source, so that the same seed makes the same case again.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

UNICODE_DIGITS = ["٣", "²", "\uff11\uff12", "๑", "五", "1\u200b2", "१e५"]
TEXTS = [
    *("", " ", "\t", "NULL", "None", "null", "True", "0", "-1", "+1", "1e5", "0x10", "1_000", "NaN", "-Infinity"),
    *UNICODE_DIGITS,
    *("\0", "a\0b", "\n", "a\r\nb", "\x1b]52;c;aGk=\x07", "\x7f", "\x85", "\u2028", "\u202egnp", "\ufeff", "\uffff"),
    *("\ud800", "a\udfff", "\udcff", "\U0010ffff", "e\u0301" * 50, "\N{PILE OF POO}" * 20, "İ", "ß"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "//",
        "~",
        "-",
        "--help",
        "a,b,,c",
        ",",
        ":",
        "a:b:c",
        "%",
        "%s%n%00",
    ),
    *(
        "$(id)",
        "`id`",
        "'",
        '"',
        "\\",
        "'\"'",
        "a b",
        "{}",
        "[]",
        "{",
        '{"a":',
        "[" * 60,
        "(" * 200,
        "<a>",
        "&amp;",
        "]]>",
    ),
    *("http://", "http://[", "http://[::1", "https://h:99999/x", "file:///etc/passwd", "root://h//x", "ftp://h/x"),
    *("http://h/%00", "http://h/%2e%2e/x", "http://ü/x", "://", "http://h:٣/x", "x" * 300, "x" * 5000, "9" * 400),
]
NUMBERS = [
    *(0, 1, -1, 2, 10, 255, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, 2**64, 10**18, 10**30, 10**63, -(10**63)),
    *(0.0, -0.0, 0.5, 1e-320, 1e300, 1.7976931348623157e308, -1e16),
]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": None}, {"a": {}}, [1, "a", None, {}], [[[[[]]]]]]

XML = [
    *(
        "utf-7",
        "utf-16",
        "x",
        "1.1",
        "&#0;",
        "&#xd800;",
        "&#x202e;",
        "&nope;",
        "&lt;",
        "<!-- -->",
        "<![CDATA[x]]>",
        "<?pi?>",
    ),
    *(
        "<!DOCTYPE a>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]>",
        "<a>" * 5000,
        "<a/>" * 5000,
        "</a>",
        'a="1" a="2"',
        "xmlns:x",
        "D:",
    ),
    *(
        "http://[/d/x",
        "//h/d/x",
        "/d/../x",
        "/d/%2e%2e",
        "/d/a%2Fb",
        "/d/%00",
        "/d/\u202ex",
        "/d/" + "x/" * 3000,
        "٣",
        "9" * 5000,
    ),
]


class Raw(str):
    """JSON text that stands for itself: what no Python value can say."""

    __slots__ = ()


RAWS = [
    *(Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999"), Raw("9" * 70), Raw("9" * 5000)),
    *(Raw("0." + "1" * 5000), Raw("1E+400"), Raw("[" * 33 + "]" * 33), Raw("[" * 1500 + "]" * 1500)),
    *(Raw('{"a":' * 200 + "1" + "}" * 200), Raw('{"a": 1, "a": 2}'), Raw('"\\ud800"'), Raw('"\\udc00\\ud800"')),
    *(Raw('"\\u0000"'), Raw("tru"), Raw("01"), Raw("'a'"), Raw('"a\tb"'), Raw("[1,]"), Raw("/**/1")),
]
HUGE: list[Callable[[], Raw]] = [
    lambda: Raw("[" * 50_000 + "]" * 50_000),
    lambda: Raw("[" * 100_000),
    lambda: Raw("[" + "1," * 100_001 + "1]"),
    lambda: Raw("[" + "[]," * 100_001 + "[]]"),
    lambda: Raw('"' + "x" * 1_200_000 + '"'),
    lambda: Raw('{"' + "k" * 300_000 + '": 1}'),
    lambda: Raw("9" * 200_000),
]
"""Rarely taken: each costs some milliseconds."""

_HUGE_IN = 150


class Mutator:
    """One case."""

    def __init__(self, seed: object) -> None:
        self.random = random.Random(str(seed))
        self.huge = True

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def nasty(self) -> Any:
        """A value that is nothing that anybody expects."""
        if self.huge and self.random.randrange(_HUGE_IN) == 0:
            return self.pick(HUGE)()
        return copy.deepcopy(self.pick(self.pick([TEXTS, NUMBERS, OTHERS, RAWS])))

    # --- structures

    def value(self, good: Any, times: int | None = None) -> Any:
        """The value, with one to three of its inner ones (or itself) spoilt."""
        box = [copy.deepcopy(good)]
        for _ in range(times or self.random.randint(1, 3)):
            holder, key = self._place(box)
            self._spoil(holder, key)
        return box[0]

    def _place(self, box: Any) -> tuple[Any, Any]:
        """Some inner value, as its holder and key; the outermost one seldom."""
        found = [
            (holder, key) for holder, key in _places(box) if holder is not box or self.random.randrange(30) == 0
        ] or [(box, 0)]
        return self.pick(found)

    def _spoil(self, holder: Any, key: Any) -> None:
        old = holder[key]
        match self.random.randrange(12):
            case 0:
                self._remove(holder, key)
            case 1:
                holder[key] = [old]
            case 2:
                holder[key] = {"a": old}
            case 3:
                holder[key] = json.dumps(old) if _is_plain(old) else str(old)
            case 4 if isinstance(holder, dict):
                holder[self.pick([str(key).upper(), f"{key} ", f"{key}\0", self.pick(TEXTS), ""])] = holder.pop(key)
            case 5 if isinstance(holder, dict) and _is_plain(holder):
                twice = json.dumps(holder)[:-1] + f", {json.dumps(key)}: {written(self.nasty())}}}"
                holder.clear()
                holder["nested"] = Raw(twice)
            case 6 if isinstance(holder, list) and len(holder) < 1000:
                holder[:] = copy.deepcopy(holder * self.pick([2, 3, 50]))
            case 7 | 8 | 9 if isinstance(old, str) and not isinstance(old, Raw):
                holder[key] = self.text(old)
            case _:
                holder[key] = self.nasty()

    def _remove(self, holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            del holder[key]
        elif len(holder) > 1:
            holder.pop(key)
        else:
            holder[key] = None

    # --- texts and bytes

    def text(self, good: str) -> str:
        """The text, spoilt in a place or two."""
        for _ in range(self.random.randint(1, 2)):
            at = self.random.randint(0, len(good))
            end = min(len(good), at + self.random.choice([1, 1, 3, 20]))
            match self.random.randrange(6):
                case 0:
                    good = good[:at] + self.pick(TEXTS) + good[at:]
                case 1:
                    good = good[:at] + self.pick(TEXTS) + good[end:]
                case 2:
                    good = good[:at]
                case 3:
                    good = good[:at] + good[end:]
                case 4:
                    good = good[:at] + good[at:end] * self.random.choice([2, 10, 500]) + good[end:]
                case _:
                    good = good[:at] + self.pick(list("\0\n\r\t '\"\\,;:=@%/?#<>&{}[]()^|~-.0aé")) + good[end:]
        return good

    def bytes(self, good: bytes) -> bytes:
        """The bytes, with some flipped, cut off, left out, put in, or said again."""
        spoilt = bytearray(good)
        for _ in range(self.random.choice([1, 1, 2, 5])):
            at = self.random.randint(0, len(spoilt))
            end = min(len(spoilt), at + self.random.choice([1, 2, 10, 100]))
            match self.random.randrange(7):
                case 0 | 1 if at < len(spoilt):
                    spoilt[at] ^= 1 << self.random.randrange(8)
                case 2:
                    del spoilt[at:]
                case 3:
                    del spoilt[at:end]
                case 4:
                    spoilt[at:at] = self.random.randbytes(self.random.choice([1, 2, 20]))
                case 5:
                    spoilt[at:end] = spoilt[at:end] * self.random.choice([2, 5, 200])
                case _:
                    spoilt[at:at] = self.pick(TEXTS).encode("utf-8", "surrogatepass")
        return bytes(spoilt)

    def xml(self, good: bytes) -> bytes:
        """A document, with one or two of its texts, names or attributes spoilt, or its bytes."""
        if self.random.randrange(3) == 0:
            return self.bytes(good)
        parts = re.split(r"([^<>\"]+)", good.decode())
        for _ in range(self.random.randint(1, 2)):
            at = self.random.randrange(1, len(parts), 2)
            parts[at] = self.pick([self.text(parts[at]), self.pick(TEXTS), self.pick(XML), parts[at] * 3])
        return "".join(parts).encode("utf-8", "surrogatepass")

    def json(self, good: Any) -> bytes:
        """A JSON text of the value: spoilt in its structure, in its bytes, or in both."""
        match self.random.randrange(10):
            case 0 | 1:
                return self.bytes(written(good))
            case 2:
                return self.bytes(written(self.value(good)))
            case 3 if self.random.randrange(4) == 0:
                return written(self.value(good)).decode().encode(self.pick(["utf-16", "utf-32-be", "utf-8-sig"]))
            case _:
                return written(self.value(good))


def written(value: Any) -> bytes:
    """A value as JSON, `Raw` as it is; half surrogate pairs, sometimes, as the bytes that nobody should send."""
    return _written(value).encode("utf-8", "surrogatepass")


def _written(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        inner = (f"{json.dumps(str(key))}: {_written(one)}" for key, one in value.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value)


def plain(value: Any) -> Any:
    """The value with each `Raw` as the text that it is: for what never was JSON."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Raw) else value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every inner value as its holder and key."""
    found: list[tuple[Any, Any]] = []
    inside = [value]
    while inside:
        one = inside.pop()
        if isinstance(one, dict | list):
            keys = list(one) if isinstance(one, dict) else range(len(one))
            found += [(one, key) for key in keys]
            inside += [one[key] for key in keys]
    return found


def _is_plain(value: Any) -> bool:
    return not any(isinstance(holder[key], Raw) for holder, key in _places([value]))


class Unspoilt(Mutator):
    """Spoils nothing: the examples as they are."""

    def value(self, good: Any, times: int | None = None) -> Any:  # noqa: ARG002 - as above
        """It."""
        return good

    def text(self, good: str) -> str:
        """It."""
        return good

    def bytes(self, good: bytes) -> bytes:
        """It."""
        return good

    def xml(self, good: bytes) -> bytes:
        """It."""
        return good

    def json(self, good: Any) -> bytes:
        """It."""
        return written(good)
