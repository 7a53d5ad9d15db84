"""Checks of what people write in files: each gives the value, or raises ValueError that names the field."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pilot.values.hpo import finite

_MOST = 1 << 40


def an_object(where: str, value: object) -> dict[str, Any]:
    """A mapping, as a dictionary of its own."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: must be an object")  # noqa: TRY004 - one kind of error for bad input
    return dict(value)


def only_known(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that is not ``known``, with the nearest one that is."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f" (known: {', '.join(known)})"
            raise ValueError(f"{where}{str(key)[:60]}: unknown key{hint}")


def a_number(where: str, value: object, least: int, most: int = _MOST) -> int:
    """A whole number."""
    if value is None:
        raise ValueError(f"{where}: is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        upper = f" and at most {most}" if most != _MOST else ""
        raise ValueError(f"{where}: {str(value)[:40]!r} is no whole number of at least {least}{upper}")
    return value


def a_real(where: str, value: object) -> float:
    """A finite number; a text of one as well, for YAML takes 1e-5 for a text."""
    number = finite(value)
    if number is None:
        raise ValueError(f"{where}: {str(value)[:40]!r} is no number")
    return number


def a_text(where: str, value: object) -> str:
    """A text without NUL."""
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError(f"{where}: must be a text")
    return value


def texts(where: str, value: object) -> tuple[str, ...]:
    """A list of texts; one text is divided at its commas."""
    several = value.split(",") if isinstance(value, str) else value
    if not isinstance(several, (list, tuple)):
        raise ValueError(f"{where}: must be a list of texts")  # noqa: TRY004 - as above
    return tuple(a_text(where, one) for one in several)


def a_name(where: str, value: object, kind: Callable[[str], str]) -> str:
    """A text of a kind that refuses bad ones."""
    try:
        return str(kind(a_text(where, value)))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
