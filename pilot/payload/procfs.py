"""Processes as /proc tells of them: who is there, whose child, since when; and a signal that cannot go astray.

Fields as in proc_pid_stat(5). A process is its pid together with its start time: a number alone is given to
somebody else as soon as it is free.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MARK_NAME = "PILOT_PAYLOAD_MARK"
"""The variable in a payload's environment whose value tells it from every other payload."""

_MOST_ENVIRONMENT_BYTES = 8 << 20  # execve(2): the kernel takes 6 MiB of arguments and environment
_MOST_S = 2.0
_GONE = (errno.ENOENT, errno.ESRCH, errno.EPERM, errno.EACCES)  # the last two: hidden from us (hidepid of proc)


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``start_ticks``: clock ticks (10 ms) from the boot to its start; ``parent`` 0: outside of here."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    threads: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """Whether it can still do something: a zombie cannot, unless only its first thread has ended."""
        return self.state not in "ZX" or self.threads > 1

    @property
    def key(self) -> tuple[int, int]:
        """What nobody else can have before the next boot."""
        return self.pid, self.start_ticks


def parse_stat(text: bytes) -> Process:
    """A line of /proc/PID/stat; the name may hold blanks and parentheses. ValueError if it is something else.

    >>> parse_stat(b"7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0").name
    'a) b'
    """
    opening, closing = text.index(b"("), text.rindex(b")")
    fields = text[closing + 1 :].split()
    if len(fields) < 20:
        raise ValueError(f"too few fields in {text[:100]!r}")
    return Process(
        pid=int(text[:opening]),
        name=text[opening + 1 : closing].decode("utf-8", "replace"),
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def look(pid: int) -> Process | None:
    """The process that has this number now; None if nobody has that we may see.

    OSError if that cannot be told (EMFILE).
    """
    try:
        return parse_stat(_read(f"/proc/{pid}/stat", 4096))
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def readable() -> bool:
    """Whether /proc tells of our pid namespace: in a new one without a /proc of its own, all numbers are others'."""
    try:
        return str(Path("/proc/self").readlink()) == str(os.getpid())
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All processes that were there throughout; ``complete`` is False if one could not be read."""

    processes: Mapping[int, Process]
    complete: bool

    def below(self, roots: Iterable[int], passed_over: Callable[[Process], bool]) -> Iterator[Process]:
        """The descendants of ``roots``, parents first; who is passed over has none either."""
        children: dict[int, list[Process]] = {}
        for process in self.processes.values():
            children.setdefault(process.parent, []).append(process)
        seen = set(roots)
        queue = list(seen)
        for parent in queue:
            for child in children.get(parent, ()):
                if child.pid not in seen and not passed_over(child):
                    seen.add(child.pid)
                    queue.append(child.pid)
                    yield child

    def line(self, pid: int) -> set[int]:
        """A process and its ancestors."""
        found: set[int] = set()
        while pid > 0 and pid not in found:
            found.add(pid)
            pid = self.processes[pid].parent if pid in self.processes else 0
        return found


def snapshot() -> Snapshot:
    """Look at everybody; about 15 us of CPU for each, and 2 s at most (a fork bomb leaves us little CPU)."""
    limit = time.monotonic() + _MOST_S
    processes: dict[int, Process] = {}
    complete = readable()
    try:
        numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return Snapshot({}, complete=False)
    for pid in numbers if complete else ():
        if time.monotonic() > limit:
            return Snapshot(processes, complete=False)
        try:
            process = look(pid)
        except (OSError, ValueError):
            complete = False
            continue
        if process is not None:
            processes[pid] = process
    return Snapshot(processes, complete)


def children_of_us() -> set[int] | None:
    """The numbers of our children, ended or not; None where the kernel does not list them (CONFIG_PROC_CHILDREN).

    Fast, but no proof: a child can be missed when another one ends meanwhile (proc_pid_children(5)).
    """
    found: set[int] = set()
    try:
        for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - this is the loop that races with the payload
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.update(map(int, _read(f"/proc/self/task/{task}/children", 1 << 22).split()))
    except OSError:
        return None
    return found if found or Path("/proc/thread-self/children").exists() else None


def has_mark(pid: int, mark: str) -> bool:
    """Whether it was started with the mark in its environment; False also where we may not look."""
    return marked(environment_of(pid), mark)


def environment_of(pid: int) -> bytes | None:
    """What it was started with; empty also while it becomes another program, None where we may not look."""
    try:
        return _read(f"/proc/{pid}/environ", _MOST_ENVIRONMENT_BYTES)
    except OSError:
        return None


def marked(environment: bytes | None, mark: str) -> bool:
    """Whether an environment holds the mark."""
    return environment is not None and f"{MARK_NAME}={mark}".encode() in environment.split(b"\0")


def send(process: Process, number: signal.Signals, still: Callable[[Process], bool] = lambda _: True) -> bool:
    """Signal exactly this process; False if it is gone, is not ours to signal, or was not reached this time.

    The descriptor is opened first and the number looked at again after: if it has been given away between
    the two, the descriptor is that of a dead process, and sending fails.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # gone, or no descriptors left: the next round tries again
        return False
    try:
        now = look(process.pid)
        if now is None or now.start_ticks != process.start_ticks or not still(now):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def waits_in(pid: int) -> str:
    """The function of the kernel that it waits in, for a message; "" if that is not told."""
    try:
        return _read(f"/proc/{pid}/wchan", 200).decode("ascii", "replace")
    except OSError:
        return ""


def boot_id() -> str:
    """The present boot of this machine; "" if unknown."""
    try:
        return _read("/proc/sys/kernel/random/boot_id", 100).decode("ascii", "replace").strip()
    except OSError:
        return ""


def pid_namespace() -> int:
    """The inode of our pid namespace; 0 if unknown."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _read(path: str, most_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while len(text) < most_bytes and (part := os.read(descriptor, 1 << 16)):
            text += part
        return text
    finally:
        os.close(descriptor)
