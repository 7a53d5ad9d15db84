"""The live view of `pilot try` on a terminal: the steps so far, and the one in progress with its bytes and time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from pilot.agent.local.view import progress, story


class LiveView:
    """Keeps the printed steps above, and one moving line below."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._began = time.monotonic()
        self._now = "waiting for the pilot"
        self._spinner = Spinner("dots")

    def event(self, event: dict[str, Any]) -> None:
        """Print a finished step above; show progress in the moving line."""
        if event.get("event") == "progress":
            self._now = progress(event)
            return
        line = story(event)
        if line:
            self._live.console.print(Text(f"{self._elapsed():7.2f} s  {line}"), soft_wrap=False)
            self._now = line

    def __rich__(self) -> RenderableType:
        """The moving line: what is being done, for how long."""
        self._spinner.update(text=Text(f"{self._elapsed():6.1f} s  {self._now}"))
        return Group(self._spinner)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


@contextmanager
def live_view() -> Iterator[LiveView]:
    """A view that redraws itself ten times a second and leaves only the steps behind."""
    with Live(console=Console(), refresh_per_second=10, transient=True) as live:
        view = LiveView(live)
        live.update(view)
        yield view
