"""Intermediate losses of a running evaluation: lines of progress.jsonl, or of its output that fit a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pilot.files.kept import KeptFile
from pilot.payload.sync import read
from pilot.values.decoding import LOOSE, decode_json
from pilot.values.errors import Garbled
from pilot.values.hpo import finite

FILE = "progress.jsonl"

_MOST_READ = 1 << 20
_MOST_LINE = 1 << 16
_MOST_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Intermediate:
    """The loss after a step."""

    step: int
    loss: float


@dataclass(slots=True)
class Progress:
    """Reads on where it stopped. ``pattern`` has a group ``loss``, and may have ``step``; None: no look at stdout."""

    folder: Path
    stdout: Path | KeptFile
    pattern: re.Pattern[str] | None = None
    last: Intermediate | None = None
    _steps: int = 0
    _at: dict[Path | KeptFile, int] = field(default_factory=dict)

    def news(self) -> list[Intermediate]:
        """What came since the last look, at most 10 000 steps in all."""
        before = self._steps
        found = list(self._found())
        return found[: max(0, _MOST_STEPS - before)]

    def _found(self) -> Iterator[Intermediate]:
        for line in self._lines(self.folder / FILE):
            yield from self._kept(_from_json(line))
        if self.pattern is not None:
            for line in self._lines(self.stdout):
                yield from self._kept(self._matched(line))

    def _kept(self, one: Intermediate | None) -> Iterator[Intermediate]:
        if one is not None:
            self.last = one
            self._steps += 1
            yield one

    def _matched(self, line: str) -> Intermediate | None:
        match = self.pattern.search(line[:_MOST_LINE]) if self.pattern is not None else None
        if match is None:
            return None
        groups = match.groupdict()
        loss = finite(groups.get("loss", match.group(match.lastindex or 0)))
        step = groups.get("step") or ""
        number = int(step) if step.isascii() and step.isdigit() and len(step) < 10 else self._next()
        return None if loss is None else Intermediate(number, loss)

    def _next(self) -> int:
        return self.last.step + 1 if self.last is not None else 1

    def _lines(self, file: Path | KeptFile) -> Iterator[str]:
        """Whole lines that were added; half of one is left for the next look."""
        at = self._at.get(file, 0)
        text = (file.read(_MOST_READ, at) if isinstance(file, KeptFile) else read(file, _MOST_READ, at)) or b""
        end = text.rfind(b"\n") + 1
        if not end and len(text) > _MOST_LINE:
            end = len(text)  # one endless line is nobody's
        self._at[file] = at + end
        for line in text[:end].splitlines():
            yield line.decode("utf-8", "replace")


def _from_json(line: str) -> Intermediate | None:
    """An object with ``step`` and ``loss``; other keys, such as Katib's, are not looked at."""
    try:
        value = decode_json(line[:_MOST_LINE], LOOSE)
    except Garbled:
        return None
    if not isinstance(value, dict):
        return None
    loss, step = finite(value.get("loss")), value.get("step")
    if loss is None or isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 10**9:
        return None
    return Intermediate(step, loss)
