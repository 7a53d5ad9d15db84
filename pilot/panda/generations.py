"""The two generations of PanDA's API: v1, and the calls before it, which servers before 2026-05 know (table B1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pilot.values.errors import ServerRefused

T = TypeVar("T")


class Generations:
    """Which of the two a server knows for a group of calls: found out with the first, and remembered."""

    def __init__(self) -> None:
        self._old = False

    def call(self, new: Callable[[], T], old: Callable[[], T]) -> T:
        """Make the call as this server knows it. Where it knows neither, the refusal of the new one is raised."""
        if self._old:
            return old()
        try:
            return new()
        except ServerRefused as refusal:
            if not _unknown(refusal):
                raise
            try:
                answer = old()
            except ServerRefused as other:
                raise refusal if _unknown(other) else other from None
        self._old = True
        return answer


def _unknown(error: ServerRefused) -> bool:
    """Whether a server does not know the call: 404, or 403 with "method ... is forbidden"."""
    text = str(error)
    return "HTTP 404" in text or ("HTTP 403" in text and "is forbidden" in text)
