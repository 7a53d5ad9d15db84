"""What ``tail``, ``ls``, ``ps``, ``du`` and debug mode show of a running job, read in Python.

No program is started and no shell is asked. The directories are those that were opened before the payload ran, and
what is below them is reached one component at a time, through no link: nothing else can be looked at, whatever
the payload does with names. Trees are walked without recursion; entries and time are bounded. Texts are cut to
what the server keeps of the field stdout: 2048 bytes (corrections A5).
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Self

from pilot.files.folder import Folder
from pilot.files.kept import KeptFile
from pilot.files.opening import NotRegular, folder_of, open_file, open_folder
from pilot.files.trees import Walk
from pilot.runner.area import LOG, STDERR, STDOUT, JobArea
from pilot.values.deadline import Deadline

MOST_BYTES = 2048
_MOST_ENTRIES = 20_000  # of a tree: in debug mode each minute
_MOST_NAMES = 100_000  # of one directory, which are not looked at one by one
_MOST_LINES = 100  # more than fit into the answer
_MOST_S = 2.0
_NEWEST = 5
_LONGEST = 300
_OUTSIDE = (errno.EXDEV, errno.ELOOP, errno.ENOTDIR)
_KNOWN = "known: tail FILE, ls [DIR], du [DIR], ps"


class Inspector:
    """Looks into one job's directory; called by the reporter's thread, so each look is short."""

    def __init__(self, area: JobArea) -> None:
        """Look at what ``area`` has open, by descriptors of its own."""
        self._busy = threading.Lock()
        self._ended = False
        self._work = Folder(os.dup(area.work_folder.fd))
        kept = {STDOUT: area.stdout, STDERR: area.stderr, LOG: area.log}
        self._logs = {name: KeptFile(os.dup(file.fileno())) for name, file in kept.items()}

    def __enter__(self) -> Self:
        """Nothing but the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Look no more. A look that the disk holds keeps its descriptors: they must not become another file's."""
        if self._busy.acquire(timeout=2 * _MOST_S):
            self._ended = True
            self._work.close()
            for file in self._logs.values():
                file.close()
            self._busy.release()

    def look(self, command: str) -> str:
        """The answer to a command of the server, or for "" the tail of the file that was written last; never ""."""
        said = _shown(command)[:_LONGEST] or "debug"
        with self._busy:
            if self._ended:
                return f"{said}: not possible: the job has ended"
            try:
                return _cut(self._answer(command, said)) or f"{said}: nothing to show"
            except OSError as error:
                return f"{said}: {_why(error)}"
            except ValueError:  # a NUL, or half of a surrogate pair
                return f"{said}: not possible: no file has such a name"

    def _answer(self, command: str, said: str) -> str:
        if not command:
            return self._newest_tail()
        if "\x00" in command:
            raise ValueError("a NUL")
        verb, *arguments = command.split()
        looks: dict[str, Callable[[str], str]] = {"tail": self._tail, "ls": self._list, "du": self._usage}
        names = [argument for argument in arguments if not argument.startswith("-")]
        if verb == "ps":
            return _processes()
        if verb not in looks or len(names) > 1:
            return f"{said}: not understood ({_KNOWN})"
        return looks[verb](names[0] if names else ".")

    def _tail(self, name: str) -> str:
        """The end of a file of the work directory, or of one of the job's own logs, by its name."""
        return self._logs[name].tail(MOST_BYTES) if name in self._logs else self._end_of(name)

    def _end_of(self, name: str) -> str:
        with folder_of(name, at=self._work.fd) as (folder, last), closing(KeptFile(open_file(last, at=folder))) as file:
            return file.tail(MOST_BYTES)

    def _list(self, name: str) -> str:
        if name in self._logs:
            return _entry(name, os.fstat(self._logs[name].fileno()))
        with folder_of(name, at=self._work.fd) as (folder, last):
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                return _entry(last, found)
            with Folder(open_folder(last, at=folder)) as listed:
                return _listed(listed)

    def _usage(self, name: str) -> str:
        """KiB on disk and entries; says so when it had to stop counting."""
        with folder_of(name, at=self._work.fd) as (folder, last):
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                return f"{found.st_blocks // 2} KiB in 1 file"
            with Folder(open_folder(last, at=folder)) as top:
                walk = _walk(top)
                blocks = [one.status.st_blocks for one in walk if not one.is_folder]
        more = f" (not all was counted: {_shown(walk.stopped)})" if walk.stopped else ""
        return f"{sum(blocks) // 2} KiB in {len(blocks)} files{more}"

    def _newest_tail(self) -> str:
        """The file's name in the first line, its end below; of the next one where it cannot be read any more."""
        printed = ((os.fstat(self._logs[name].fileno()).st_mtime_ns, name, True) for name in (STDOUT, STDERR))
        files = ((one.status.st_mtime_ns, one.path, False) for one in _walk(self._work) if one.is_file)
        for _, path, ours in heapq.nlargest(_NEWEST, (*printed, *files)):
            try:
                text = self._logs[path].tail(MOST_BYTES) if ours else self._end_of(path)
            except OSError:
                continue
            return f"[{_shown(path if ours else f'work/{path}')}]\n{text}"
        return ""


def _why(error: OSError) -> str:
    """Why there is nothing to see."""
    if error.errno in _OUTSIDE or (isinstance(error, NotRegular) and error.strerror == "a symbolic link"):
        return "not in the work directory (links are not followed)"
    return f"not possible: {error.strerror}"


def _walk(top: Folder) -> Walk:
    return top.walk(Deadline.after(_MOST_S), _MOST_ENTRIES)


def _listed(folder: Folder) -> str:
    """The last entries by name, as the answer is cut at its beginning; how many there are, if not all are told."""
    end = time.monotonic() + _MOST_S
    names: list[str] = []
    with os.scandir(folder.fd) as entries:
        for entry in entries:
            if len(names) == _MOST_NAMES or time.monotonic() > end:
                break
            names.append(entry.name)
    last = heapq.nlargest(_MOST_LINES, names)[::-1]
    lines = [_status(folder, name) for name in last]
    return "\n".join(lines if len(last) == len(names) else [*lines, f"(the last {len(last)} of {len(names)} or more)"])


def _status(folder: Folder, name: str) -> str:
    try:
        return _entry(name, folder.status(name))
    except OSError as error:
        return f"{_shown(name)}: {error.strerror}"


def _entry(name: str, found: os.stat_result) -> str:
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.st_mtime))
    except (OverflowError, OSError, ValueError):  # a year that no calendar has
        when = "?"
    return f"{stat.filemode(found.st_mode)} {found.st_size:>12} {when:>19} {_shown(name)}"


def _shown(name: str) -> str:
    """A name, or a command, in one line; bytes that are not UTF-8, and what is not printed, as escapes."""
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def _processes() -> str:
    """Our descendants: pid, state, threads, resident MiB, name."""
    rows: dict[int, str] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in (path.name for path in Path("/proc").iterdir()):
        found = _process(entry) if entry.isdigit() else None
        if found is not None:
            children[found[0]].append(int(entry))
            rows[int(entry)] = found[1]
    ours, next_ones = set[int](), [os.getpid()]
    while next_ones:
        next_ones = [child for one in next_ones for child in children[one] if child not in ours]
        ours.update(next_ones)
    return "\n".join(["     PID S THREADS  RSS_MIB COMMAND", *(f"{pid:>8} {rows[pid]}" for pid in sorted(ours))])


def _process(pid: str) -> tuple[int, str] | None:
    """Parent, and the rest of the line; None for a process that is gone. It names itself: with any bytes."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    rss_mib = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return int(fields[1]), f"{fields[0]} {fields[17]:>7} {rss_mib:>8.1f} {_shown(name)}"


def _cut(text: str) -> str:
    """The end of a text, as long as the field; never in the middle of a character."""
    clean = text.replace("\x00", "")
    return clean.encode("utf-8", "replace")[-MOST_BYTES:].decode("utf-8", "ignore")
