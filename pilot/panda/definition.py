"""A job definition's fields, each read in its type, or refused as a `BadJob` that names the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pilot.values.errors import BadJob
from pilot.values.names import is_whole, quoted

NULLS = (None, "", "NULL", "None")
"""How PanDA writes that it does not say (panda-protocol.md 4.5)."""

T = TypeVar("T")


class Definition:
    """What the server sent, behind readers for each type."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw

    def identity(self) -> tuple[int | None, int | None]:
        """PandaID and attempt as far as they can be read."""
        found = (self._raw.get("PandaID"), self._raw.get("attemptNr"))
        job_id, attempt = (one if isinstance(one, int) and not isinstance(one, bool) else None for one in found)
        return job_id, attempt

    def number(self, name: str, *, required: bool = False) -> int | None:
        """A whole number that is not negative; "NULL" and its like are None."""
        value = self._raw.get(name)
        if value in NULLS:
            if required:
                raise BadJob(name, "missing")
            return None
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise BadJob(name, f"{quoted(str(value))} is not a whole number")
        if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise BadJob(name, f"{quoted(value)} is not a whole number")
        if not 0 <= int(value) < 1 << 62:
            raise BadJob(name, f"{int(value)} is negative or out of range")
        return int(value)

    def text(self, name: str) -> str:
        """A text, "" where it is NULL; no NUL in it, and no half of a character."""
        value = self._raw.get(name)
        if value in NULLS:
            return ""
        if not isinstance(value, str):
            raise BadJob(name, "not a text")
        if not is_whole(value):
            raise BadJob(name, "holds a NUL character" if "\x00" in value else "holds half a character")
        return value

    def flag(self, name: str) -> bool:
        """A flag: the text "True", or JSON true."""
        return self._raw.get(name) in ("True", True)

    def object(self, name: str) -> Mapping[str, Any]:
        """An object, empty where it is missing."""
        value = self._raw.get(name)
        if value in NULLS:
            return {}
        if not isinstance(value, dict):
            raise BadJob(name, "not an object")
        return value

    def names(self, name: str) -> list[str]:
        """A list of texts that comes as a JSON list or as a comma list."""
        value = self._raw.get(name)
        if isinstance(value, list):
            if not all(isinstance(one, str) for one in value):
                raise BadJob(name, "not a list of texts")
            return value
        text = self.text(name)
        return text.split(",") if text else []

    def aligned(self, name: str, parse: Callable[[str], T], length: int, beside: str) -> list[T | None]:
        """A comma list as long as the one named ``beside``; "NULL" and "" in it are None."""
        if name not in self._raw:
            return [None] * length
        items = self.text(name).split(",") if length else []
        if items in ([""], []):
            return [None] * length
        if len(items) != length:
            raise BadJob(name, f"{len(items)} entries, but {beside} has {length}")
        return [None if item in NULLS else self.parsed(name, parse, item) for item in items]

    @staticmethod
    def parsed(name: str, parse: Callable[[str], T], item: str) -> T:
        """One entry, or BadJob with the reason that its type gives."""
        try:
            return parse(item)
        except ValueError as error:
            raise BadJob(name, str(error)) from None
