"""A payload's process tree, for the pilot that started it: who belongs to it, and how it is ended (promise P8).

Where the pilot gets the orphans below it, ancestry tells (`orphans`). A pilot that gets none goes by what `proven`
proves. Where several payloads run at once, ancestry tells only that a process is one of theirs: see `Beside`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterable

from pilot.payload.orphans import CHASE_S, Orphans, Strays, become_subreaper, children_so_far
from pilot.payload.procfs import Process, Snapshot, environment_of, look, marked, send, snapshot
from pilot.payload.proven import QUIET, Found, Proof, Proven, crowd, end_proven, line_of_us, proof_of
from pilot.payload.subgroup import Subgroup
from pilot.values.deadline import Deadline

__all__ = ["Beside", "Proof", "Strays", "Tree", "become_subreaper", "children_so_far", "end_proven", "proof_of"]

_FREEZE_S = 0.2  # for how long a tree that grows is stopped before it is killed as it is


class Tree(Orphans):
    """The processes of the only payload that runs.

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
            ours: our other children; they and what is below them are neither signalled nor reaped. The leader may be
                among them.
            before: the same for children that were there already; see `children_so_far`.
        """
        super().__init__(lambda: {*ours()} - {proof.pid}, before, proof.start_ticks)
        self._leader = proof.pid
        self._group = group
        self._proven = None if self.gets_orphans else Proven(proof, group, self._ours)

    def find(self) -> Found:
        """One look; see `Orphans.find` and `Proven.find` for what it proves."""
        return super().find() if self._proven is None else self._proven.find()

    def end(self, limit: Deadline) -> tuple[Process, ...]:
        """Kill and look again until nothing is left; who is left when the limit comes."""
        return super().end(limit) if self._proven is None else self._proven.end(limit)

    def _tell_group(self, living: Collection[Process], number: signal.Signals) -> None:
        """The leader's group hears of it first."""
        if not self._sees or any(process.group == self._leader for process in living):
            _signal_group(self._leader, number)

    def _strike(self) -> None:
        """Kill whom one call reaches, those being forked included: the control group, and the leader's group."""
        self._kill_members()
        _signal_group(self._leader, signal.SIGKILL)

    def _kill_members(self) -> bool:
        return self._group is not None and self._group.kill({*line_of_us(), *self._ours()})


class Beside(Tree):
    """The processes of a payload that others run beside; their leaders are in ``ours``.

    A child of ours is taken for the payload's if it is the leader, of its session or control group, carries its mark,
    or was seen below it; and so is what is below such a child. Any other is left to the other payloads, and what
    proves to be nobody's (a daemon that has cleared its environment before anybody looked) to `Strays`. Orphans that
    have ended are reaped whosesoever they are: an ended process proves little.
    """

    def __init__(
        self,
        proof: Proof,
        group: Subgroup | None,
        ours: Callable[[], Collection[int]],
        before: Collection[tuple[int, int]] = (),
    ) -> None:
        """A tree that has just been planted; the arguments are those of `Tree`."""
        super().__init__(proof, group, ours, before)
        self._mark = proof.mark
        self._known: set[tuple[int, int]] = set()
        self._quiet = 0

    def find(self) -> Found:
        """One look.

        A child that could have left a process unseen makes it doubtful, and may be a neighbour's: so several
        doubtful looks after each other that find nobody are taken for a proof, as in `Proven`.
        """
        if self._proven is not None or not self._sees:
            return super().find()
        was_over = _has_ended(self._leader)
        seen = snapshot()
        passed_over, members = self._passed_over(), self._members()
        children = [one for one in seen.processes.values() if one.parent == os.getpid() and not passed_over(one)]
        mine = [child for child in children if self._proves(child, members)]
        family = (*mine, *seen.below([child.pid for child in mine], passed_over))
        living = tuple(process for process in family if process.alive)
        self._remember(family, seen)
        doubtful = not was_over or any(
            self._hides(child)
            for child in children
            if child.pid != self._leader and (child not in mine or not child.alive)
        )
        if doubtful and not living:
            living = tuple(one for pid in self._chased(()) if (one := _looked(pid)) is not None)
        self._quiet = self._quiet + 1 if seen.complete and not living and not self._members() else 0
        nothing = self._quiet >= (QUIET if doubtful else 1)
        return Found(living, crowd(living, seen), nothing=nothing)

    def end(self, limit: Deadline) -> tuple[Process, ...]:
        """Stop everybody until a look finds nobody new, then as `Tree.end`; who is left when the limit comes.

        Stopped first, since a dead parent proves nothing: its latest child would be nobody's.
        """
        if self._proven is None and not self._quiet and not self._kill_members():
            self._freeze(Deadline.after(_FREEZE_S).sooner(limit))
        return super().end(limit)

    def _freeze(self, limit: Deadline) -> None:
        stopped: set[tuple[int, int]] = set()
        while not limit.expired():
            news = [process for process in self.find().living if process.key not in stopped]
            if not news:
                return
            for process in news:
                send(process, signal.SIGSTOP, self._still(process))
            stopped |= {process.key for process in news}

    def _chased(self, killed: Collection[int]) -> set[int]:
        """Children that are proven; looked for again if one has ended before it could be, or may have been missed."""
        limit = Deadline.after(CHASE_S)
        mine: set[int] = set()
        ended: set[int] = set()
        quiet = 0
        while not mine and quiet < QUIET and not limit.expired():
            news, members = self._orphans().difference(killed, ended), self._members()
            found = {pid: _looked(pid) for pid in news}
            mine = {pid for pid, one in found.items() if one is not None and one.alive and self._proves(one, members)}
            late = {pid for pid in news - mine if (now := _looked(pid)) is None or not now.alive}
            ended |= late
            quiet = 0 if late else quiet + 1
        return mine

    def _proves(self, child: Process, members: Collection[int]) -> bool:
        """Whether this child of ours is the payload's."""
        if self._leader in (child.pid, child.session) or child.key in self._known or child.pid in members:
            return True
        return bool(self._mark) and child.alive and marked(environment_of(child.pid), self._mark)

    def _hides(self, child: Process) -> bool:
        """Whether it may have been the payload's, without a proof, or have started a process that was not seen.

        One that ends meanwhile may; and one that is about to become another program has no environment yet.
        """
        now = _looked(child.pid) if child.alive else None
        return now is None or not now.alive or environment_of(child.pid) == b""

    def _remember(self, family: Iterable[Process], seen: Snapshot) -> None:
        """Whom pid and start time prove from now on."""
        if seen.complete:
            self._known &= {process.key for process in seen.processes.values()}
        self._known |= {process.key for process in family}

    def _members(self) -> set[int]:
        return self._group.members() if self._group is not None else set()


def _looked(pid: int) -> Process | None:
    """As `look`; None also if it cannot be told."""
    with contextlib.suppress(OSError):
        return look(pid)
    return None


def _has_ended(pid: int) -> bool:
    """Whether this child of ours is a zombie."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return True


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
