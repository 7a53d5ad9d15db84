"""What a record holds, each fact taken by the type that it must have.

Whoever can write to the volume can write records: nothing of one is used that was not taken by one of these. Each
raises ValueError that names the fact.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

_MOST_WHOLE = 1 << 62
_MOST_TEXT = 1 << 16
_MISSING = object()


def text(record: Mapping[str, Any], name: str, otherwise: Any = _MISSING) -> str:
    """A text without NUL; ``otherwise`` where there is none."""
    value = _taken(record, name, otherwise)
    if not isinstance(value, str) or "\0" in value or len(value) > _MOST_TEXT:
        raise _wrong(name, value, "text")
    return value


def text_or_none(record: Mapping[str, Any], name: str) -> str | None:
    """A text, or None."""
    return None if record.get(name) is None else text(record, name)


def whole(record: Mapping[str, Any], name: str, least: int = 0, otherwise: Any = _MISSING) -> int:
    """A whole number."""
    value = _taken(record, name, otherwise)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_WHOLE:
        raise _wrong(name, value, f"whole number of at least {least}")
    return value


def whole_or_none(record: Mapping[str, Any], name: str) -> int | None:
    """A whole number, or None."""
    return None if record.get(name) is None else whole(record, name)


def number(record: Mapping[str, Any], name: str, otherwise: Any = _MISSING) -> float:
    """A number that is not negative."""
    value = _taken(record, name, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_WHOLE:
        raise _wrong(name, value, "number")
    return float(value)


def real(record: Mapping[str, Any], name: str) -> float:
    """A finite number of either sign."""
    value = _taken(record, name, _MISSING)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, value, "number")
    return float(value)


def number_or_none(record: Mapping[str, Any], name: str) -> float | None:
    """A number, or None."""
    return None if record.get(name) is None else number(record, name)


def switch(record: Mapping[str, Any], name: str, otherwise: Any = _MISSING) -> bool:
    """True or false."""
    value = _taken(record, name, otherwise)
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def mapping(record: Mapping[str, Any], name: str, otherwise: Any = _MISSING) -> Mapping[str, Any]:
    """An object."""
    value = _taken(record, name, otherwise)
    if not isinstance(value, dict):
        raise _wrong(name, value, "object")
    return value


def mappings(record: Mapping[str, Any], name: str, otherwise: Any = _MISSING) -> list[Mapping[str, Any]]:
    """A list of objects."""
    return [mapping({name: one}, name) for one in listed(record, name, otherwise)]


def texts(record: Mapping[str, Any], name: str, otherwise: Any = _MISSING) -> list[str]:
    """A list of texts."""
    return [text({name: one}, name) for one in listed(record, name, otherwise)]


def listed(record: Mapping[str, Any], name: str, otherwise: Any = _MISSING) -> list[Any]:
    """A list."""
    value = _taken(record, name, otherwise)
    if not isinstance(value, list | tuple):
        raise _wrong(name, value, "list")
    return list(value)


def _taken(record: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    if name not in record and otherwise is _MISSING:
        raise ValueError(f"{name} is missing")
    return record.get(name, otherwise)


def _wrong(name: str, value: object, what: str) -> ValueError:
    return ValueError(f"{name}: {ascii(reprlib.repr(value))[1:60]} is no {what}")
