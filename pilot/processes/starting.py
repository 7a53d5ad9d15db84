"""Starting processes and threads where the system has none to give for a while.

A pod has a limit of processes, and so has a user on a node: both are often reached for seconds only. So a start that
fails for that reason is tried again, inside somebody's patience, and the last failure names the limits.
"""

from __future__ import annotations

import errno
import math
import os
import resource
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pilot.values.deadline import Deadline
from pilot.values.errors import SiteError
from pilot.values.events import events
from pilot.values.stop import Waitable

log = events(__name__)
T = TypeVar("T")

_SCARCE = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE)
_NO_THREAD = "can't start new thread"
_FIRST_S, _LONGEST_S = 0.05, 1.0
_THREAD_S = 60.0
_FORGOTTEN_S = 60.0
"""A shortage that nobody has met for so long was another one."""

_PIDS = ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/pids")


def is_scarce(error: BaseException | None) -> bool:
    """Whether a start failed for want of processes, threads or memory; an error's cause counts as well."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SCARCE:
            return True
        if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
            return True
        error = error.__cause__
    return False


def why_scarce(error: BaseException) -> str:
    """One line for people: what the system says, which limits there are, and what to do."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOMEM:
        return f"{said}: the pod or its node has no memory for another process: ask for more, or run less at once"
    if number == errno.ENFILE:
        return f"{said}: the node can open no more files: run less at once on it"
    limits = "; ".join(filter(None, (_pod_limit(), _user_limit())))
    what = f"the limit of processes is reached ({limits})" if limits else "a limit of processes is reached"
    return f"{said}: {what}: raise it, or run less at once"


class Shortage:
    """A time in which nothing can be started: when to try again, and when that has lasted for too long."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: how long one may last, from its first failure on, in seconds."""
        self._patience_s = patience_s
        self._end: Deadline | None = None
        self._pause_s = _FIRST_S
        self.due = Deadline.after(0)

    @property
    def here(self) -> bool:
        """Whether the last start has failed for that."""
        return self._end is not None

    def bears(self, error: BaseException, limit: Deadline) -> bool:
        """Whether a start that has failed is to be tried again, at `due`; not after ``limit``."""
        if not is_scarce(error):
            return False
        if self._end is None or Deadline.after(-_FORGOTTEN_S).at > self.due.at:
            self.over()
            self._end = Deadline.after(self._patience_s)
            log.warning("nothing can be started now: it is tried again", why=why_scarce(error))
        left_s = self._end.sooner(limit).left()
        self.due = Deadline.after(min(self._pause_s, left_s or _LONGEST_S))
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        return left_s > 0

    def over(self) -> None:
        """Something was started."""
        self._end, self._pause_s = None, _FIRST_S
        self.due = Deadline.after(0)


def patiently(start: Callable[[], T], limit: Deadline, *wakers: Waitable) -> T:
    """What ``start`` gives: tried again until ``limit`` while there is no process, thread or memory for it.

    Raises what it has raised last: at the limit, for any other reason, and when one of ``wakers`` comes.
    """
    shortage = Shortage(math.inf)
    while True:
        try:
            return start()
        except (OSError, RuntimeError) as error:
            if not shortage.bears(error, limit) or select.select(wakers, [], [], shortage.due.left())[0]:
                raise


def start_thread(thread: threading.Thread, limit: Deadline | None = None, *wakers: Waitable) -> None:
    """Start one that its process cannot do without; until ``limit``, 60 s, it is tried again. Raises SiteError."""
    try:
        patiently(thread.start, limit or Deadline.after(_THREAD_S), *wakers)
    except RuntimeError as error:
        raise SiteError(f"the thread {thread.name} cannot be started: {why_scarce(error)}") from error


def _user_limit() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY:
        return ""
    return f"{soft} for user {os.getuid()}, RLIMIT_NPROC"


def _pod_limit() -> str:
    """What the control group that we see as the pod's allows, and how many there are."""
    for stem in _PIDS:
        most, now = _number(f"{stem}.max"), _number(f"{stem}.current")
        if most:
            return f"{most} for the pod, {now or '?'} in use, {stem}.max"
    return ""


def _number(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return text if text.isdecimal() else ""
