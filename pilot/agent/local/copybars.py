"""The moving part of `pilot copy` on a terminal: a bar for all, and one for each file that takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.spinner import Spinner
from rich.table import Column
from rich.text import Text

from pilot.agent.local.copyplan import Item
from pilot.agent.local.copyview import rate, shortened
from pilot.values.printable import line

_BESIDE_NAME = 42
"""What stands beside a file's name: bar, per cent and speed."""

_SHORTEST_NAME = 8

_LONGEST_COUNT = 8
"""A file that is alone stands where else their count is, and has the bar of all, which needs more space."""

_SMALL_BYTES = 1 << 20
"""A file that is not larger is gone before anybody has read its name; and many of them are under way at once."""


class Moving:
    """To be used as a context: at its end the terminal has only the lines that were printed above it."""

    def __init__(self, console: Console) -> None:
        self._room = max(_SHORTEST_NAME, console.width - _BESIDE_NAME)
        self._each, self._all = _each(console, self._room), _all(console)
        self._rows: dict[str, TaskID] = {}
        self._moved: dict[str, int] = {}
        self._count = self._ended = self._bytes = 0
        self._only = ""
        self._total: int | None = None
        self._overall: TaskID | None = None
        looking = Spinner("dots", "looking at what there is to copy")
        self._live = Live(
            looking,
            console=console,
            transient=True,
            refresh_per_second=10,
            redirect_stdout=False,  # they may lead somewhere else than the terminal
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    @staticmethod
    def plain(text: str) -> Text:
        """A line that nothing is read out of: no markup, no emoji."""
        return Text(text)

    def begin(self, items: Sequence[Item]) -> None:
        """Show the bars."""
        sizes = [item.size for item in items if item.size is not None]
        self._count, self._total = len(items), sum(sizes) if len(sizes) == len(items) else None
        if len(items) == 1:
            self._only = shortened(line(items[0].name), max(_SHORTEST_NAME, self._room - _LONGEST_COUNT))
        self._overall = self._all.add_task("", total=self._total, files=self._told())
        self._live.update(Group(self._each, self._all))

    def progress(self, item: Item, count: int) -> None:
        """So many bytes of a file were moved, in its present try."""
        self._moved[item.destination] = count
        if self._count > 1 and (item.size is None or item.size > _SMALL_BYTES):
            if item.destination not in self._rows:
                name = shortened(line(item.name), self._room)
                self._rows[item.destination] = self._each.add_task(name, total=item.size)
            self._each.update(self._rows[item.destination], completed=count)
        self._refresh()

    def ended(self, item: Item, count: int | None) -> None:
        """A file has ended: ``count`` bytes were moved, or None and it is no more part of the whole."""
        self._moved.pop(item.destination, None)
        if (row := self._rows.pop(item.destination, None)) is not None:
            self._each.remove_task(row)
        self._ended += 1
        self._bytes += count or 0
        if count is None and self._total is not None:
            self._total -= item.size or 0
        self._refresh()

    def _refresh(self) -> None:
        if self._overall is not None:
            moved = self._bytes + sum(self._moved.values())
            self._all.update(self._overall, completed=moved, total=self._total, files=self._told())

    def _told(self) -> str:
        return self._only or f"{self._ended} of {self._count} files"


class _Speed(ProgressColumn):
    """Bytes per second, as in the lines above."""

    def render(self, task: Task) -> Text:
        """``45.6 MB/s``; nothing as long as it is not known."""
        return Text("" if task.speed is None else rate(task.speed), style="progress.data.speed")


class _Left(ProgressColumn):
    """The time that the rest takes at the present speed."""

    def render(self, task: Task) -> Text:
        """``0:32 left``."""
        seconds = task.time_remaining
        if seconds is None:
            return Text("-:-- left", style="progress.remaining")
        minutes, rest = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
        return Text(f"{clock} left", style="progress.remaining")


def _each(console: Console, room: int) -> Progress:
    name = TextColumn("{task.description}", markup=False, table_column=Column(width=room, no_wrap=True))
    return Progress(
        name,
        BarColumn(None),
        TaskProgressColumn(),
        _Speed(Column(justify="right", width=10)),
        console=console,
        expand=True,
    )


def _all(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[files]}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(None),
        DownloadColumn(table_column=Column(no_wrap=True)),
        _Speed(Column(no_wrap=True)),
        _Left(Column(no_wrap=True)),
        console=console,
        expand=True,
    )
