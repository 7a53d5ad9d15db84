"""Who looks at a job while it runs: a live view on a terminal, plain lines else, or nobody."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pilot.agent.local.view import story
from pilot.agent.saying import say


class Watcher(Protocol):
    """Whoever looks at a pilot's events."""

    def event(self, event: dict[str, Any]) -> None:
        """One event of the pilot's JSON log."""


@contextmanager
def watcher(*, quiet: bool) -> Iterator[Watcher]:
    """A live view on a terminal, plain lines else, nothing when ``quiet``."""
    if quiet:
        yield _Silent()
    elif sys.stdout.isatty():
        from pilot.agent.local.live import live_view  # noqa: PLC0415 - rich is slow to import

        with live_view() as live:
            yield live
    else:
        yield _Lines()


class _Silent:
    def event(self, event: dict[str, Any]) -> None:
        """Say nothing."""


class _Lines:
    """One line per step, with the seconds since the first."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def event(self, event: dict[str, Any]) -> None:
        """Print a step; let other events pass."""
        line = story(event)
        if line:
            say(f"{time.monotonic() - self._began:7.2f} s  {line}")
