"""What ``tail``, ``ls``, ``ps``, ``du`` and debug mode show of a running job, read in Python.

No program is started and no shell is asked; nothing outside the job's directory can be looked at. Texts are
cut to what the server keeps of the field stdout: 2048 bytes (corrections A5).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pilot.runner.area import JobArea

MOST_BYTES = 2048
_MOST_ENTRIES = 20_000
_MOST_S = 2.0


class Inspector:
    """Looks into one job's directory; called by the reporter's thread, so each look is short."""

    def __init__(self, area: JobArea) -> None:
        """Look below ``area``."""
        self._area = area

    def look(self, command: str) -> str:
        """The answer to a command of the server, or for "" the tail of the file that was written last."""
        try:
            return _cut(self._answer(command))
        except OSError as error:
            return _cut(f"{command}: {error.strerror}")

    def _answer(self, command: str) -> str:
        if not command:
            return self._newest_tail()
        verb, *arguments = command.split()
        looks: dict[str, Callable[[Path], str]] = {"tail": _tail, "ls": _list, "du": _usage}
        names = [argument for argument in arguments if not argument.startswith("-")]
        if verb == "ps":
            return _processes()
        if verb not in looks or len(names) > 1:
            return f"{command}: not understood (known: tail FILE, ls [DIR], du [DIR], ps)"
        path = self._inside(names[0] if names else ".")
        if path is None:
            return f"{command}: not in the work directory"
        return looks[verb](path)

    def _inside(self, name: str) -> Path | None:
        """A path of the work directory; None for anything else."""
        path = Path(os.path.realpath(self._area.work / name))
        return path if path.is_relative_to(os.path.realpath(self._area.work)) else None

    def _newest_tail(self) -> str:
        """The file's name in the first line, its end below."""
        files = [*_files(self._area.work)]
        times = [(_changed(file), file) for file in files if file.is_file()]
        if not times:
            return ""
        newest = max(times)[1]
        return f"[{newest.relative_to(self._area.root)}]\n{_tail(newest)}"


def _tail(path: Path) -> str:
    return path.read_text()[-MOST_BYTES:]


def _list(path: Path) -> str:
    entries = sorted(os.scandir(path), key=lambda entry: entry.name) if path.is_dir() else []
    lines = [_entry(entry.name, entry.stat(follow_symlinks=False)) for entry in entries[:_MOST_ENTRIES]]
    return "\n".join(lines) if path.is_dir() else _entry(path.name, path.lstat())


def _entry(name: str, found: os.stat_result) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.st_mtime))
    return f"{stat.filemode(found.st_mode)} {found.st_size:>12} {when} {name}"


def _usage(path: Path) -> str:
    """KiB on disk and entries below a directory; says so when it had to stop counting."""
    end = time.monotonic() + _MOST_S
    blocks = count = 0
    for file in _files(path):
        count += 1
        blocks += file.lstat().st_blocks
        if count >= _MOST_ENTRIES or time.monotonic() > end:
            return f"more than {blocks // 2} KiB in more than {count} files"
    return f"{blocks // 2} KiB in {count} files"


def _files(path: Path) -> Iterator[Path]:
    """Regular files below a directory, links not followed; bounded by its callers."""
    end = time.monotonic() + _MOST_S
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink():
                yield file
        if time.monotonic() > end:
            return


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _processes() -> str:
    """Our descendants: pid, state, threads, resident MiB, name."""
    rows = {int(entry): _process(entry) for entry in (path.name for path in Path("/proc").iterdir()) if entry.isdigit()}
    alive = {pid: row for pid, row in rows.items() if row is not None}
    ours, grown = {os.getpid()}, True
    while grown:
        children = {pid for pid, row in alive.items() if row[0] in ours} - ours
        grown = bool(children)
        ours |= children
    lines = [f"{pid:>8} {alive[pid][1]}" for pid in sorted(ours) if pid in alive and pid != os.getpid()]
    return "\n".join(["     PID S THREADS  RSS_MIB COMMAND", *lines])


def _process(pid: str) -> tuple[int, str] | None:
    """Parent, and the rest of the line; None for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    rss_mib = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return int(fields[1]), f"{fields[0]} {fields[17]:>7} {rss_mib:>8.1f} {name}"


def _cut(text: str) -> str:
    """The end of a text, as long as the field; never in the middle of a character."""
    clean = text.replace("\x00", "")
    return clean.encode("utf-8", "replace")[-MOST_BYTES:].decode("utf-8", "ignore")
