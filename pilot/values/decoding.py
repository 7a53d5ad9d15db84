"""The one way in for JSON that somebody else wrote: bounded, and whatever it holds, never another error than `Garbled`.

A server, a storage, a volume and a payload can each send text that takes a plain ``json.loads`` apart: nested
until the interpreter's stack ends, numbers that no float holds, a name that stands twice. What is decoded here
holds finite numbers only, is no deeper than its rules allow, and has no more elements.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pilot.values.errors import Garbled, NotJson
from pilot.values.names import quoted

_LONGEST_INT = 64  # digits: more than anybody counts, and still a finite float
_MOST_LITERAL = 1 << 19


class _Refused(ValueError):
    """Raised by our own hooks: the text is JSON, but not as it may be."""


def _no_number(text: str) -> Any:
    raise _Refused(f"holds {text if len(text) < 20 else 'a number beyond all measure'}, which is no JSON")


@dataclass(frozen=True, slots=True)
class Rules:
    """How much may come, and what becomes of numbers that are none.

    Args:
        most_bytes: the longest text.
        most_elements: values in all, inner and outer.
        most_depth: levels of lists and objects.
        odd_number: makes a value of ``NaN``, ``Infinity``, ``1e999`` and integers beyond all measure, or refuses.
        twice: whether a key may stand twice in an object; the last one counts.
    """

    most_bytes: int = 4 << 20
    most_elements: int = 100_000
    most_depth: int = 32
    odd_number: Callable[[str], Any] = _no_number
    twice: bool = False


STRICT = Rules()
"""For answers of the PanDA server, and what is packed in them as text."""

DOCUMENT = Rules(most_bytes=32 << 20, most_elements=3_000_000, odd_number=str)
"""For queue and storage data (ddmendpoints.json of ATLAS: 6 MB). An odd number in a field that nobody reads
costs nothing: it is taken as text."""

LOOSE = Rules(most_bytes=8 << 20, most_elements=1_000_000, most_depth=100, odd_number=float, twice=True)
"""For what payloads and iDDS write, whose NaN means something: it is no loss."""


def decode_json(text: bytes | str, rules: Rules = STRICT) -> Any:
    """The value of a JSON text. Raises NotJson for what is none, Garbled for what breaks the rules."""
    if len(text) > rules.most_bytes:
        raise Garbled(f"larger than {rules.most_bytes} bytes")
    if _brackets(text) > rules.most_elements:
        raise Garbled(f"more than {rules.most_elements} elements")
    value = _loaded(text, rules)
    _bound(value, rules)
    return value


def decode_loosely(text: str, rules: Rules = STRICT) -> Any:
    """The same for JSON or a Python literal, as people write it. Raises Garbled."""
    try:
        return decode_json(text, rules)
    except NotJson:
        return decode_literal(text)


def decode_literal(text: str) -> Any:
    """The value of a Python literal, and nothing that could do anything. Raises Garbled."""
    if len(text) > _MOST_LITERAL:
        raise Garbled(f"larger than {_MOST_LITERAL} characters")
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise NotJson(f"{quoted(text)} is neither JSON nor a Python literal") from None


def _brackets(text: bytes | str) -> int:
    """Lists and objects, more or less: a look before they are made, as each empty one costs 60 bytes."""
    return text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")


def _loaded(text: bytes | str, rules: Rules) -> Any:
    try:
        return json.loads(
            text,
            parse_constant=rules.odd_number,
            parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INT else rules.odd_number(digits),
            parse_float=lambda digits: _float(digits, rules),
            object_pairs_hook=None if rules.twice else _no_duplicates,
        )
    except _Refused as error:
        raise Garbled(str(error)) from None
    except RecursionError:
        raise Garbled(f"nested deeper than {rules.most_depth} levels") from None
    except ValueError as error:  # bytes that are no text come here as well
        raise NotJson(f"no JSON: {str(error)[:200]}") from None


def _float(digits: str, rules: Rules) -> Any:
    value = float(digits)
    return value if math.isfinite(value) else rules.odd_number(digits)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"key {quoted(twice)} stands twice")
    return result


def _bound(value: Any, rules: Rules) -> None:
    """Count elements level by level: a recursion would fall into the trap that it looks for."""
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        depth += 1
        if count > rules.most_elements:
            raise Garbled(f"more than {rules.most_elements} elements")
        if depth > rules.most_depth:
            raise Garbled(f"nested deeper than {rules.most_depth} levels")
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
