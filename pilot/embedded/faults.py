"""The fault script: which request goes wrong, and how."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What happens to a request."""

    DELAY = "delay"
    STATUS = "status"
    GARBAGE = "garbage"
    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    LATE = "late"
    NO_DATABASE = "no_database"


GARBAGE = "<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: the ``nth`` request (1 is the first; None: from the first on) that matches, and ``count`` in all.

    ``match`` is a part of the path; ``state`` restricts it to updates with that job_status; ``count`` None is
    for ever. ``seconds`` belongs to delay and late, ``status`` and ``body`` to status and garbage.
    """

    match: str
    do: Kind
    nth: int | None = None
    count: int | None = 1
    state: str | None = None
    seconds: float = 0.0
    status: int = 500
    body: str = ""

    def fits(self, path: str, state: str | None) -> bool:
        """Whether the rule is about such a request."""
        return self.match in path and (self.state is None or self.state == state)

    def fires(self, number: int) -> bool:
        """Whether the rule strikes at the ``number``-th request that fits."""
        first = self.nth or 1
        return number >= first and (self.count is None or number < first + self.count)


def parse(raw: object) -> list[Rule]:
    """The rules of a JSON text: a list, or an object with a list ``rules``. ValueError names the field."""
    rules = raw.get("rules") if isinstance(raw, Mapping) else raw
    if not isinstance(rules, list):
        raise ValueError("rules: must be a list")  # noqa: TRY004 - bad input is a ValueError throughout
    return [_rule(index, one) for index, one in enumerate(rules)]


_TYPES: dict[str, tuple[type, ...]] = {
    "match": (str,),
    "do": (str,),
    "nth": (int, type(None)),
    "count": (int, type(None)),
    "state": (str, type(None)),
    "seconds": (int, float),
    "status": (int,),
    "body": (str,),
}


def _rule(index: int, raw: object) -> Rule:
    where = f"rules[{index}]"
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: must be an object")  # noqa: TRY004 - as above
    known = [one.name for one in fields(Rule)]
    for name, value in raw.items():
        if name not in known:
            raise ValueError(f"{where}.{name}: unknown (known: {', '.join(known)})")
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise ValueError(f"{where}.{name}: {value!r} is of the wrong type")  # noqa: TRY004 - as above
    if not raw.get("match"):
        raise ValueError(f"{where}.match: needed")
    if raw.get("do") not in set(Kind):
        raise ValueError(f"{where}.do: must be one of {', '.join(Kind)}")
    return Rule(**{**raw, "do": Kind(raw["do"])})


class Faults:
    """The rules in force, and how often each was met."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[tuple[Rule, int]] = []

    def set(self, rules: Iterable[Rule]) -> None:
        """Put rules in force instead of all before; their counting begins anew."""
        with self._lock:
            self._rules = [(rule, 0) for rule in rules]

    def strike(self, path: str, state: str | None) -> Rule | None:
        """The first rule that strikes a request; every rule that fits counts it."""
        with self._lock:
            self._rules = [(rule, met + rule.fits(path, state)) for rule, met in self._rules]
            struck = (rule for rule, met in self._rules if rule.fits(path, state) and rule.fires(met))
            return next(struck, None)

    def list(self) -> list[dict[str, Any]]:
        """The rules as they were given, each with ``met``: how many requests fitted."""
        with self._lock:
            rules = list(self._rules)
        return [{**{one.name: getattr(rule, one.name) for one in fields(rule)}, "met": met} for rule, met in rules]
