"""Which waiting jobs fit a pilot's question (panda-protocol.md 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilot.embedded.identity import compact

_PRODUCTION = frozenset({"managed", "test", "prod_test", "install"})
_ANALYSIS = frozenset({"user", "panda", "install"})
_TESTS = frozenset({"gangarobot", "prod_test", "install", "test"})
_IN_TEST_QUEUES = ("user", "managed", "unified", None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pilot asks for, and has. MiB and seconds; 0 is no filter, and so are None and an empty ``labels``.

    ``gpus`` is the number that it has, for a job's own key of that name.
    """

    queue: str
    count: int
    memory_mib: int = 0
    disk_mib: int = 0
    remaining_s: int = 0
    labels: frozenset[str] = frozenset()
    resource_type: str | None = None
    task: int | None = None
    user: str | None = None
    gpus: int | None = None

    def fits(self, definition: Mapping[str, Any]) -> bool:
        """Whether a job is among those asked for, as far as its numbers do not say."""
        return (
            self._labelled(definition)
            and self.resource_type in (None, definition.get("resource_type"))
            and self.task in (None, definition.get("taskID"))
            and (self.gpus is None or _gpus(definition) <= self.gpus)
            and (self.user is None or compact(self.user) == compact(str(definition.get("prodUserID"))))
        )

    def _labelled(self, definition: Mapping[str, Any]) -> bool:
        """Jobs of our own making have no label that anybody chose: they are for whoever asks."""
        label = definition.get("prodSourceLabel")
        return not self.labels or label is None or definition.get("processingType") == "local" or label in self.labels


def _gpus(definition: Mapping[str, Any]) -> int:
    """How many a job asks for; a text that is no number is for the pilot to refuse."""
    asked = definition.get("gpus")
    return int(asked) if isinstance(asked, int) or (isinstance(asked, str) and asked.isdecimal()) else 0


def labels(asked: str | None, computing_element: str | None, *, testing: bool) -> frozenset[str]:
    """The labels of the jobs that a label asks for; ``testing`` is a queue in status test."""
    if testing and asked in _IN_TEST_QUEUES:
        asked = "test"
    if asked == "test" and computing_element:
        return _TESTS
    groups = {None: _PRODUCTION, "managed": _PRODUCTION, "user": _ANALYSIS, "unified": _PRODUCTION | _ANALYSIS}
    return groups.get(asked) or frozenset({str(asked)})
