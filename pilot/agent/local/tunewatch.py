"""Who looks at a study while it is evaluated: a leaderboard on a terminal, plain lines else, or nobody."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from pilot.agent.local.board import evaluated_line, live_lines
from pilot.agent.local.timeline import Timeline
from pilot.agent.saying import say
from pilot.values.printable import block, line

_DONE = ("evaluated", "pruned", "failed")


class Spectator(Protocol):
    """Whoever looks."""

    def look(self, found: Mapping[str, Any], timeline: Timeline, /) -> None:
        """The study as it is now: results so far, and what runs."""

    def say(self, text: str, /) -> None:
        """A line for people."""


@contextmanager
def spectator(*, quiet: bool) -> Iterator[Spectator]:
    """A leaderboard on a terminal, plain lines else, nothing when ``quiet``."""
    if quiet:
        yield _Silent()
    elif sys.stdout.isatty():
        with _live() as board:
            yield board
    else:
        yield _Lines()


class _Silent:
    def look(self, _found: Mapping[str, Any], _timeline: Timeline) -> None:
        """Say nothing."""

    def say(self, _text: str) -> None:
        """Say nothing."""


class _Lines:
    """One line per evaluated point, with the seconds since the start; how many there were before comes first."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._told: set[str] | None = None

    def look(self, found: Mapping[str, Any], _timeline: Timeline) -> None:
        """Tell what is new, in the order in which it ended."""
        done = [one for one in found["points"] if one["state"] in _DONE]
        if self._told is None:
            self._told = {one["id"] for one in done}
            before = f", {len(done)} of them evaluated before" if done else ""
            self.say(f"{found['name']}: {found['max_points']} points{before}")
        for one in sorted(done, key=lambda one: one["ended"] or 0):
            if one["id"] not in self._told:
                self._told.add(one["id"])
                self.say(evaluated_line(one, found))

    def say(self, text: str) -> None:
        """A line of its own."""
        say(f"{time.monotonic() - self._began:7.2f} s  {line(text)}")


@contextmanager
def _live() -> Iterator[Spectator]:
    """Redraws itself at each look, without a thread; it leaves the last picture behind only until the end is told."""
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    class Board:
        def __init__(self, live: Live) -> None:
            self._live = live

        def look(self, found: Mapping[str, Any], timeline: Timeline) -> None:
            size = self._live.console.size
            rows = live_lines(found, timeline.running, time.time(), size.width, size.height - 1)
            self._live.update(Text(block("\n".join(rows)), no_wrap=True), refresh=True)

        def say(self, text: str) -> None:
            self._live.console.print(Text(line(text)))

    with Live(console=Console(highlight=False), auto_refresh=False, transient=True) as live:
        yield Board(live)
