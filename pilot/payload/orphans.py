"""What is below us and is neither one of our other children nor older than the job: looked at, ended, reaped.

A subreaper, or PID 1, becomes the parent of every orphan below it, so what a payload left has no way out: its
ancestry leads to us. PID 1 of a container also gets the orphans of a `kubectl exec`, and cannot tell them from a
payload's. Ending is bounded everywhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pilot.payload.procfs import Process, children_of_us, look, readable, send, snapshot
from pilot.payload.proven import PAUSE_S, TELL_S, Found, crowd
from pilot.values.deadline import Deadline

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PR_GET_CHILD_SUBREAPER = 37

CHASE_S = 0.2
"""How long the front of a tree that runs away is followed before its dead are reaped."""

_MOST_DEAD = 2000  # so many wait to be reaped at most: below a limit of processes they are places that stay taken


def children_so_far() -> set[tuple[int, int]]:
    """Pid and start time of each child of ours.

    To be asked for before a payload is started: ticks are too coarse to tell which of two was first.
    """
    found = set()
    for pid in _children() if readable() else ():
        with contextlib.suppress(OSError):
            process = look(pid)
            if process is not None:
                found.add(process.key)
    return found


def become_subreaper() -> bool:
    """Orphans below us become our children from now on; False where that cannot be had. To be called at start."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def gets_orphans() -> bool:
    """Whether orphans below us become our children."""
    if os.getpid() == 1:
        return True
    return _prctl(_PR_GET_CHILD_SUBREAPER, None) > 0


def _prctl(option: int, value: int | None) -> int:
    """The result of a prctl, or the number that it answers with; -1 if it failed."""
    try:
        import ctypes  # noqa: PLC0415 - 5 ms that a pilot without a job need not spend

        call = ctypes.CDLL(None).prctl
        if value is not None:
            return int(call(option, ctypes.c_ulong(value), 0, 0, 0))
        answer = ctypes.c_int(0)
        return -1 if call(option, ctypes.byref(answer), 0, 0, 0) else answer.value
    except (ImportError, OSError, AttributeError):  # a Python without ctypes, a libc without prctl
        return -1


@dataclass(slots=True)
class Usage:
    """What ended processes have used: CPU in seconds, the largest peak of memory in KiB."""

    cpu_s: float = 0.0
    max_rss_kib: int = 0

    def add(self, usage: Any) -> None:
        """Count a process; ``usage`` is what wait4 tells."""
        self.cpu_s += usage.ru_utime + usage.ru_stime
        self.max_rss_kib = max(self.max_rss_kib, usage.ru_maxrss)


class Orphans:
    """The processes below us that are none of ours. To be used by one thread, the only one that reaps."""

    def __init__(
        self, ours: Callable[[], Collection[int]], before: Collection[tuple[int, int]], since_ticks: int
    ) -> None:
        """Those that come from now on.

        Args:
            ours: our other children; they and what is below them are neither signalled nor reaped.
            before: the same for children that were there already; see `children_so_far`.
            since_ticks: the same for whatever was started earlier, in clock ticks from boot.
        """
        self._ours = ours
        self._since = since_ticks
        self._sees = readable()
        self._before = frozenset(before)
        self._before_pids = {pid for pid, _ in self._before}
        self._leader = 0
        self.gets_orphans = gets_orphans()
        """Whether what is left behind becomes our child, and wants to be reaped."""
        self.usage = Usage()

    def find(self) -> Found:
        """One look.

        It proves that nothing is left: whatever lives below us has an ancestor that is our child. That child is
        there during the whole look, if only as a zombie, since nobody but us can reap it; and a look that meets a
        zombie proves nothing. So this is true in spite of processes that are born while we look.
        """
        if not self._sees:
            return Found(nothing=True)  # not known; `end` does what can be done
        seen = snapshot()
        family = tuple(seen.below([os.getpid()], self._passed_over()))
        living = tuple(process for process in family if process.alive)
        rest = [process for process in family if process.pid != self._leader]
        return Found(living, crowd(living, seen), nothing=seen.complete and not living and not rest)

    def tell(self, number: signal.Signals) -> int:
        """Give a signal to everybody once; how many were there.

        A process that is stopped would hear of it when it is continued, so it is.
        """
        living = self.find().living
        self._tell_group(living, number)
        limit = Deadline.after(TELL_S)
        for process in living:
            if limit.expired():
                break
            if process.group != self._leader:
                send(process, number, self._still(process))
            if process.state == "T":
                send(process, signal.SIGCONT, self._still(process))
        return len(living)

    def end(self, limit: Deadline) -> tuple[Process, ...]:
        """Kill, reap and look again until a look proves that nothing is left; who is left when the limit comes.

        Killed at once rather than stopped first: neither can fork any more, and as long as the dead are not
        reaped, the places that they had below a limit of processes stay taken.
        """
        while True:
            self._strike()
            caught = self._chase()
            found = self.find()
            if found.nothing or limit.expired():
                return found.living
            self._kill(found.living, limit)
            if not found.living or not caught:
                self.reap()
            if not found.crowd:
                time.sleep(min(PAUSE_S, limit.left()))

    def reap(self) -> None:
        """Collect the orphans that have ended, each by its number: the exit statuses of others stay for them."""
        if not self.gets_orphans or not _anybody_ended():
            return
        for pid in self._orphans():
            with contextlib.suppress(ChildProcessError):
                ended, _, usage = os.wait4(pid, os.WNOHANG)
                if ended:
                    self.usage.add(usage)

    def _orphans(self) -> set[int]:
        """Our children, living or not, that are orphans.

        A child keeps its number until it is reaped, and that is done by this thread only: a number from here can
        be signalled and waited for.
        """
        if not self._sees:
            return set()
        found = _children() - {self._leader, *self._ours()}
        return found - {pid for pid in found & self._before_pids if self._was_there(pid)}

    def _was_there(self, pid: int) -> bool:
        """Whether the child with this number is still the one that had it before the payload."""
        try:
            process = look(pid)
        except OSError:
            return True
        return process is None or process.key in self._before

    def _passed_over(self) -> Callable[[Process], bool]:
        """Who is none of these, for one look."""
        ours = {*self._ours()}
        return lambda one: one.start_ticks < self._since or one.key in self._before or one.pid in ours

    def _still(self, process: Process) -> Callable[[Process], bool]:
        """That its ancestry is as it was seen: nobody becomes anybody's child later but ours."""
        return lambda now: not self.gets_orphans or now.parent in (process.parent, os.getpid())

    def _tell_group(self, living: Collection[Process], number: signal.Signals) -> None:
        """Give a signal to those that one call reaches: here nobody."""

    def _strike(self) -> None:
        """Kill whom one call reaches: here nobody."""

    def _chase(self) -> bool:
        """Kill our children, and their children, which come to us by that; False if they do not come to an end.

        Faster than any look at everybody. A process that double-forks without end lives for less than such a
        look takes; here it is two system calls from being our child to being dead. And processes by the thousand
        that leave us little CPU are fewer with each call.
        """
        limit = Deadline.after(CHASE_S)
        killed: set[int] = set()
        while news := self._chased(killed):
            for pid in news:
                _kill_child(pid)
            killed |= news
            if len(killed) > _MOST_DEAD or limit.expired():
                return False
        return True

    def _chased(self, killed: Collection[int]) -> set[int]:
        """Children that are to be killed, and were not yet."""
        return self._orphans().difference(killed)

    def _kill(self, living: Collection[Process], limit: Deadline) -> None:
        """Kill those that were seen, one by one, parents first, so that nobody is there to replace a child."""
        for process in living:
            if limit.expired():
                return
            if process.parent == os.getpid():
                _kill_child(process.pid)
            else:
                send(process, signal.SIGKILL, self._still(process))


class Strays(Orphans):
    """What payloads that ran beside each other may leave behind without a proof of whose it is.

    During the job only what has ended may be touched (`reap`); the rest (`end`, `sweep`) when none of them runs.
    """

    def __init__(self, ours: Callable[[], Collection[int]] = tuple) -> None:
        """Of a job that begins now. ``ours``: the numbers of our own children, the payloads' leaders among them."""
        ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        super().__init__(ours, children_so_far(), int(ticks))

    def find(self) -> Found:
        """One look; without orphans there is nothing to be found."""
        return super().find() if self.gets_orphans else Found(nothing=True)

    def sweep(self, limit: Deadline, leftovers_s: float = 1.0) -> tuple[int, tuple[Process, ...]]:
        """End what is left: a TERM, ``leftovers_s``, KILL. How many were there, and who cannot be ended."""
        self.reap()
        there = self.find()
        if there.nothing:
            return 0, ()
        if there.living and not there.crowd:
            self.tell(signal.SIGTERM)
            soft = Deadline.after(leftovers_s).sooner(limit)
            while self.find().living and not soft.expired():
                time.sleep(min(PAUSE_S, soft.left()))
                self.reap()
        survivors = self.end(limit)
        self.reap()
        return len(there.living), survivors


def _children() -> set[int]:
    """Our children, living or not."""
    children = children_of_us()
    if children is None:
        return {one.pid for one in snapshot().processes.values() if one.parent == os.getpid()}
    return children


def _anybody_ended() -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _kill_child(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
