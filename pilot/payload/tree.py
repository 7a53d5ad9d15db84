"""A payload's process tree, for the pilot that started it: who belongs to it, and how it is ended (promise P8).

A subreaper, or PID 1, becomes the parent of every orphan below it, so what the payload left has no way out: its
ancestry leads to us. Our other children, and what is older than the payload, are not its processes. PID 1 of a
container also gets the orphans of a `kubectl exec`, and cannot tell them from the payload's.

A pilot that gets no orphans goes by what `proven` proves. Ending is bounded everywhere.
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
from pilot.payload.proven import PAUSE_S, TELL_S, Found, Proof, Proven, crowd, end_proven, line_of_us, proof_of
from pilot.payload.subgroup import Subgroup
from pilot.values.deadline import Deadline

__all__ = ["Proof", "Tree", "become_subreaper", "children_so_far", "end_proven", "proof_of"]

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PR_GET_CHILD_SUBREAPER = 37

_CHASE_S = 0.2  # how long the front of a tree that runs away is followed before its dead are reaped
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


class Tree:
    """A payload's processes, for the pilot that started it and gets its orphans.

    To be used by one thread. The payload's first process (the leader) must not be waited for by anybody as long
    as the tree is used: so its number, which is also that of its group and session, stays its own.
    """

    def __init__(
        self,
        proof: Proof,
        group: Subgroup | None,
        ours: Callable[[], Collection[int]],
        before: Collection[tuple[int, int]] = (),
    ) -> None:
        """A tree that has just been planted.

        Args:
            proof: names its first process.
            group: its control group.
            ours: our other children; they and what is below them are neither signalled nor reaped.
            before: the same for children that were there already; see `children_so_far`.
        """
        self._leader = proof.pid
        self._since = proof.start_ticks
        self._group = group
        self._ours = ours
        self._sees = readable()
        self._proven = None if gets_orphans() else Proven(proof, group, ours)
        self._before = frozenset(before)
        self._before_pids = {pid for pid, _ in self._before}
        self.usage = Usage()

    @property
    def gets_orphans(self) -> bool:
        """Whether what the payload leaves behind becomes our child, and wants to be reaped."""
        return self._proven is None

    def find(self) -> Found:
        """One look.

        It proves that nothing is left: whatever lives below us has an ancestor that is our child. That child is
        there during the whole look, if only as a zombie, since nobody but us can reap it; and a look that meets a
        zombie proves nothing. So this is true in spite of processes that are born while we look.
        """
        if self._proven is not None:
            return self._proven.find()
        if not self._sees:
            return Found(nothing=True)  # not known; `end` does what can be done
        seen = snapshot()
        family = tuple(seen.below([os.getpid()], self._not_the_payloads))
        living = tuple(process for process in family if process.alive)
        rest = [process for process in family if process.pid != self._leader]
        return Found(living, crowd(living, seen), nothing=seen.complete and not living and not rest)

    def tell(self, number: signal.Signals) -> int:
        """Give a signal to everybody once, to the leader's group first; how many were there.

        A process that is stopped would hear of it when it is continued, so it is.
        """
        living = self.find().living
        if not self._sees or any(process.group == self._leader for process in living):
            _signal_group(self._leader, number)
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
        if self._proven is not None:
            return self._proven.end(limit)
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
        """Our children, living or not, that are the payload's orphans.

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

    def _not_the_payloads(self, process: Process) -> bool:
        return process.start_ticks < self._since or process.key in self._before or process.pid in self._ours()

    def _still(self, process: Process) -> Callable[[Process], bool]:
        """That its ancestry is as it was seen: nobody becomes anybody's child later but ours."""
        return lambda now: not self.gets_orphans or now.parent in (process.parent, os.getpid())

    def _strike(self) -> None:
        """Kill whom one call reaches, those being forked included: the control group, and the leader's group."""
        if self._group is not None:
            self._group.kill({*line_of_us(), *self._ours()})
        _signal_group(self._leader, signal.SIGKILL)

    def _chase(self) -> bool:
        """Kill our children, and their children, which come to us by that; False if they do not come to an end.

        Faster than any look at everybody. A process that double-forks without end lives for less than such a
        look takes; here it is two system calls from being our child to being dead. And processes by the thousand
        that leave us little CPU are fewer with each call.
        """
        limit = Deadline.after(_CHASE_S)
        killed: set[int] = set()
        while news := self._orphans() - killed:
            for pid in news:
                _kill_child(pid)
            killed |= news
            if len(killed) > _MOST_DEAD or limit.expired():
                return False
        return True

    def _kill(self, living: Collection[Process], limit: Deadline) -> None:
        """Kill those that were seen, one by one, parents first, so that nobody is there to replace a child."""
        for process in living:
            if limit.expired():
                return
            if process.parent == os.getpid():
                _kill_child(process.pid)
            else:
                send(process, signal.SIGKILL, self._still(process))


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


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
