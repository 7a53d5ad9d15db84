"""What is seen of a run from outside, and its server cannot know: pilots that were stopped, processes, files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

IN_FLIGHT_S = 0.2
"""A request may arrive so long after a stop: it was sent before the signal was seen."""

Stored = tuple[int, str]
"""Size and adler32 of a stored file."""
Lister = Callable[[str], Stored | None]
"""What lies at a URL of a storage of its own, None if nothing does; LookupError: that is none of its URLs."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be taken for another: its start time is in the clock ticks of /proc/PID/stat."""

    pid: int
    start: int

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[_START]) == self.start


@dataclass(frozen=True, slots=True)
class Pilot:
    """What was seen of a pilot from outside. Times are seconds of the wall clock; None is "not yet".

    ``node`` tells its requests from those of others; without it they are told by the time that it lived.
    """

    node: str | None = None
    began_at: float = 0.0
    stop_asked_at: float | None = None
    gone_at: float | None = None
    grace_s: float = 30.0

    def lived_at(self, at: float) -> bool:
        """Whether a request of this time can be the pilot's."""
        return self.began_at <= at <= (float("inf") if self.gone_at is None else self.gone_at + IN_FLIGHT_S)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server's history does not say.

    ``ended``: every job that a pilot got has an end by now, but for those ``abandoned``.
    ``slots``: how many jobs a node may have at a time; None: as many as pilots of it lived then, at least one.
    ``survivors``: what was still running when its pilot was gone; ``innocents`` must run still.
    ``runs_file``: each run of a payload appends a line to it, which begins with its PANDAID.
    ``listers``: know the files of storages that are not the embedded server's.
    """

    ended: bool = True
    abandoned: frozenset[int] = frozenset()
    pilots: tuple[Pilot, ...] = ()
    slots: int | None = None
    survivors: tuple[str, ...] = ()
    innocents: tuple[Process, ...] = ()
    runs_file: Path | None = None
    listers: tuple[Lister, ...] = ()


def facts_of(raw: Any) -> Facts:
    """The facts of a JSON object with the names of `Facts`; ValueError for what they cannot be."""
    known = {one.name for one in fields(Facts)} - {"listers"}
    if not isinstance(raw, dict) or not set(raw) <= known:
        raise ValueError(f"facts: an object with some of {', '.join(sorted(known))}")
    try:
        return Facts(**{name: _SHAPES.get(name, lambda same: same)(value) for name, value in raw.items()})
    except TypeError as error:
        raise ValueError(f"facts: {error}") from None


_SHAPES: dict[str, Callable[[Any], Any]] = {
    "abandoned": frozenset,
    "pilots": lambda value: tuple(Pilot(**one) for one in value),
    "survivors": lambda value: tuple(map(str, value)),
    "innocents": lambda value: tuple(Process(*one) for one in value),
    "runs_file": Path,
}


def process(pid: int) -> Process:
    """A process as a fact, also one that was not buried yet; LookupError if there is none."""
    columns = _columns(pid)
    if not columns:
        raise LookupError(f"there is no process {pid}")
    return Process(pid, int(columns[_START]))


def left_running(work: Path, pilot: Process, others: Collection[int]) -> list[str]:
    """Processes of a pilot that is gone: of its session, or with its work directory in what they were started with.

    What is older than the pilot is not looked at. ``others``: pilots that live still; their descendants are theirs.
    """
    found = []
    for pid in _pids():
        stat = _stat(pid)
        if not stat or int(stat[_START]) < pilot.start or {*others} & {pid, *_ancestors(pid)}:
            continue
        if int(stat[_SESSION]) == pilot.pid or _is_below(work, pid):
            command = _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{pid} {command.strip()[:100]}")
    return found


def _pids() -> Iterator[int]:
    yield from (int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal())


def _is_below(work: Path, pid: int) -> bool:
    """Whether a process is in the directory, or was given it in its environment."""
    try:
        if Path(str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)")).is_relative_to(work):
            return True
    except OSError:
        return False
    place = os.fsencode(work)
    given = _read(Path(f"/proc/{pid}/environ"))
    return any(end in given for end in (place + b"/", place + b"\0", place + b":"))


def _ancestors(pid: int) -> Iterator[int]:
    while (stat := _stat(pid)) and (pid := int(stat[_PARENT])) > 0:
        yield pid


def _stat(pid: int) -> list[str] | None:
    """The columns of /proc/PID/stat of a process that lives; None of one that is gone, or dead but not buried."""
    columns = _columns(pid)
    return columns if columns and columns[_STATE] not in "ZX" else None


def _columns(pid: int) -> list[str]:
    """From the state on: what stands before it may hold spaces."""
    return _read(Path(f"/proc/{pid}/stat")).decode(errors="replace").rpartition(")")[2].split()


_STATE, _PARENT, _SESSION, _START = 0, 1, 3, 19


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
