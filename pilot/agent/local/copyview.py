"""How `pilot copy` looks: a line for each file, and on a terminal, below them, bars for what is under way."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from pilot.agent.local.copyplan import Item
from pilot.agent.local.view import size
from pilot.agent.saying import say
from pilot.staging.order import plain
from pilot.staging.transfer import Moved
from pilot.values.errors import StageError
from pilot.values.printable import line

if TYPE_CHECKING:
    from rich.console import Console

_LONG = 5000
_BEFORE_NAME = 42
_SHORTEST_NAME = 8


@dataclass(frozen=True, slots=True)
class Copied:
    """A file that is where it should be."""

    item: Item
    moved: Moved

    @property
    def speed(self) -> float | None:
        """Bytes per second; None where that would say nothing."""
        return None if self.moved.there or not self.moved.seconds else self.moved.size / self.moved.seconds


@dataclass(frozen=True, slots=True)
class NotCopied:
    """A file that is not; ``item`` is None where it was not even tried. URLs are as the user gave them."""

    name: str
    source: str
    error: StageError
    item: Item | None = None

    @property
    def reason(self) -> str:
        """Why, without the name that lanes put in front of it."""
        return plain(str(self.error).removeprefix(f"{self.name}: "))


@dataclass(slots=True)
class Tally:
    """What has become of the files."""

    copied: list[Copied] = field(default_factory=list)
    failed: list[NotCopied] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def moved_bytes(self) -> int:
        """All that has been moved, in bytes."""
        return sum(one.moved.size for one in self.copied if not one.moved.there)

    def summary(self) -> str:
        """One line for people."""
        there = sum(one.moved.there for one in self.copied)
        speed = f" ({rate(self.moved_bytes / self.seconds)})" if self.seconds and self.moved_bytes else ""
        parts = [f"{_files(len(self.copied) - there)}, {size(self.moved_bytes)} in {self.seconds:.1f} s{speed}"]
        parts += [f"{there} there already"] if there else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """One object for programs; no URL in it has a query or a user name."""
        return {
            "files": [_copied_json(one) for one in self.copied],
            "failed": [_failed_json(one) for one in self.failed],
            "bytes": self.moved_bytes,
            "seconds": round(self.seconds, 3),
        }


class View:
    """Lines, as they go into files and pipes: results on stdout, or nowhere if ``quiet``, and failures on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def begin(self, items: Sequence[Item]) -> None:
        """The files are known."""

    def progress(self, item: Item, count: int) -> None:
        """So many bytes of a file were moved, in its present try."""

    def copied(self, one: Copied) -> None:
        """A file is done."""
        self.result(_line(one, self._room()))

    def failed(self, one: NotCopied) -> None:
        """A file is given up."""
        self.warn(f"pilot: copy: {one.name}: {one.reason}")

    def result(self, text: str) -> None:
        """A line for stdout."""
        if not self._quiet:
            self._print(text, sys.stdout)

    def warn(self, text: str) -> None:
        """A line for stderr."""
        self._print(text, sys.stderr)

    def _room(self) -> int | None:
        """How long a name may be; None for whatever it is."""
        return None

    def _print(self, text: str, stream: TextIO) -> None:
        say(line(text), stream)


class Bars(View):
    """The same, and a moving part on the terminal, which the lines are printed above."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        from pilot.agent.local.copybars import Moving  # noqa: PLC0415 - rich is slow to import

        self._console = console
        self.moving = Moving(console)

    def begin(self, items: Sequence[Item]) -> None:
        """Show the bars."""
        self.moving.begin(items)

    def progress(self, item: Item, count: int) -> None:
        """Move the bars on."""
        self.moving.progress(item, count)

    def copied(self, one: Copied) -> None:
        """A line instead of its bar."""
        self.moving.ended(one.item, None if one.moved.there else one.moved.size)
        super().copied(one)

    def failed(self, one: NotCopied) -> None:
        """A line instead of its bar, if it had one."""
        if one.item is not None:
            self.moving.ended(one.item, None)
        super().failed(one)

    def _room(self) -> int | None:
        return max(_SHORTEST_NAME, self._console.width - _BEFORE_NAME) if sys.stdout.isatty() else None

    def _print(self, text: str, stream: TextIO) -> None:
        if stream.isatty():
            self._console.print(self.moving.plain(line(text)), soft_wrap=True)
        else:
            super()._print(text, stream)


@contextmanager
def view(*, quiet: bool) -> Iterator[View]:
    """Bars where a terminal is; ``quiet``: stdout belongs to somebody else."""
    stream = next((one for one in ([] if quiet else [sys.stdout]) + [sys.stderr] if one.isatty()), None)
    if stream is None:
        yield View(quiet=quiet)
        return
    from rich.console import Console  # noqa: PLC0415

    console = Console(file=stream)
    if console.is_dumb_terminal:
        yield View(quiet=quiet)
        return
    bars = Bars(console, quiet=quiet)
    with bars.moving:
        yield bars


def rate(speed: float) -> str:
    """Bytes per second for people."""
    return f"{size(speed)}/s"


def shortened(name: str, room: int) -> str:
    """A name that fits; the end of a path is what tells it from others."""
    return name if len(name) <= room else "…" + name[1 - room :]


def _line(one: Copied, room: int | None) -> str:
    checksum = str(one.moved.checksum or "no checksum")
    pace = "there already" if one.moved.there else "" if one.speed is None else rate(one.speed)
    name = one.item.name if room is None else shortened(one.item.name, room)
    unseen = "  (stored, not looked at)" if one.moved.verified == "answer" else ""
    return f"{checksum:<16} {size(one.moved.size):>8}  {pace:>13}  {name}{unseen}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _copied_json(one: Copied) -> dict[str, Any]:
    return {
        "source": plain(one.item.source, _LONG),
        "destination": plain(one.item.destination, _LONG),
        "size": one.moved.size,
        "checksum": str(one.moved.checksum) if one.moved.checksum else None,
        "seconds": round(one.moved.seconds, 3),
        "speed": None if one.speed is None else round(one.speed),
        "there": one.moved.there,
        "verified": one.moved.verified,
    }


def _failed_json(one: NotCopied) -> dict[str, Any]:
    return {
        "source": plain(one.source, _LONG),
        "destination": plain(one.item.destination, _LONG) if one.item else None,
        "error": one.reason,
        "code": one.error.code,
    }
