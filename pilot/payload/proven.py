"""What proves that a process is a payload's, and the end of all processes that it proves (promise P8).

For another pilot than the one that started the payload, and for one that does not get its orphans.
Ending is bounded: a process that waits in the kernel (state D) takes no signal.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pilot.payload.procfs import Process, Snapshot, boot_id, has_mark, look, pid_namespace, readable, send, snapshot
from pilot.payload.subgroup import Subgroup
from pilot.values.deadline import Deadline

PAUSE_S = 0.01
"""Between two looks at a tree that is being ended."""

TELL_S = 1.0
"""How long polite signals may take: a fork bomb leaves us little CPU."""

_CROWD = 256
_MARK = re.compile(r"[0-9a-f]{32}")

QUIET = 3
"""So many looks without a process end a tree whose orphans do not come to us."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What proves that a process is a payload's: kept in the journal for the next life.

    Args:
        mark: value of PILOT_PAYLOAD_MARK in the payload's environment; "" if unknown.
        pid: its first process; 0 if it was not started yet, as far as is known.
        start_ticks: clock ticks from boot to its start (field 22 of /proc/PID/stat).
        boot_id: the boot that these numbers belong to.
        pid_namespace: inode of the pilot's pid namespace, which they belong to as well.
        cgroup: the directory of its own control group; "" without one.
    """

    mark: str
    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    pid_namespace: int = 0
    cgroup: str = ""

    def as_json(self) -> dict[str, Any]:
        """An object of the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Proof:
        """Of an object of the journal. Raises ValueError naming the field that is not well-formed."""
        fields = {"mark": value.get("mark"), **{name: value[name] for name in _PROOF_KINDS if name in value}}
        for name, found in fields.items():
            kind = _PROOF_KINDS[name]
            if type(found) is not kind or (isinstance(found, int) and found < 0):
                raise ValueError(f"{name}: {found!r} is not what proves a process")
        return cls(**fields)


_PROOF_KINDS: dict[str, type[str | int]] = {
    "mark": str,
    "pid": int,
    "start_ticks": int,
    "boot_id": str,
    "pid_namespace": int,
    "cgroup": str,
}


def doubted(proof: Proof) -> Proof | None:
    """What a proof proves that lay where others can write; None where that is nothing.

    A forged one could name any process, which is why pid and start time count only of a process that carries the
    payload's mark. So a zombie, which shows none, does not stand for its session here.
    """
    if not _MARK.fullmatch(proof.mark):
        return None
    return proof if proof.pid and has_mark(proof.pid, proof.mark) else replace(proof, pid=0)


def proof_before(mark: str) -> Proof:
    """What will prove a payload that is not started yet, should nobody live to write down more."""
    group = Subgroup.planned(mark)
    path = str(group.path) if group is not None else ""
    return Proof(mark, boot_id=boot_id(), pid_namespace=pid_namespace(), cgroup=path)


def proof_of(pid: int, mark: str, group: Subgroup | None) -> Proof:
    """What proves a process of ours that was just started, and has not been waited for."""
    leader = look(pid) if readable() else None
    return Proof(
        mark,
        pid,
        leader.start_ticks if leader is not None else 0,
        boot_id(),
        pid_namespace(),
        str(group.path) if group is not None else "",
    )


@dataclass(frozen=True, slots=True)
class Found:
    """One look at a tree.

    ``living`` are those that were seen, parents first, ``crowd`` whether they are too many for ceremonies;
    ``nothing`` means that it proves that no process is left.
    """

    living: tuple[Process, ...] = ()
    crowd: bool = False
    nothing: bool = False


@dataclass(slots=True)
class Proven:
    """The processes that a proof proves to be a payload's: whoever looks, no other process is among them.

    These are the one with its pid and start time; who carries its mark; the members of its control group; its
    session, while the leader is there to prove that the number is still the session's; and the descendants of
    all of these. None of them is older than the payload. Once proven, pid and start time go on to prove.
    """

    proof: Proof
    group: Subgroup | None
    ours: Callable[[], Collection[int]] = tuple
    _known: set[tuple[int, int]] = field(default_factory=set)
    _stopped: set[tuple[int, int]] = field(default_factory=set)
    _empty: int = 0

    def find(self) -> Found:
        """One look. Orphans do not come to us, so only several looks after each other prove that nothing is left."""
        seen = snapshot()
        spared = {*seen.line(os.getpid()), *self.ours(), 1}
        members = self.group.members() if self.group is not None else set()
        proven = self._session(seen) | members
        roots = [
            process
            for process in seen.processes.values()
            if process.pid not in spared
            and not self._too_old(process)
            and (process.pid in proven or self._marked(process))
        ]
        below = seen.below([root.pid for root in roots], lambda one: one.pid in spared or self._too_old(one))
        family = {process.pid: process for process in (*roots, *below)}
        self._known |= {process.key for process in family.values()}
        living = tuple(process for process in family.values() if process.alive)
        self._empty = self._empty + 1 if seen.complete and not living else 0
        return Found(living, crowd(living, seen), nothing=self._empty >= QUIET)

    def tell(self, number: signal.Signals) -> int:
        """Give a signal to everybody once, and continue who is stopped; how many there are."""
        living = self.find().living
        limit = Deadline.after(TELL_S)
        for process in living:
            if limit.expired():
                break
            send(process, number)
            if process.state == "T":
                send(process, signal.SIGCONT)
        return len(living)

    def end(self, limit: Deadline) -> tuple[Process, ...]:
        """Stop everybody until a look finds nobody new, kill them, and again; who is left when the limit comes.

        Stopped first, because a dead parent proves nothing: its children would be orphans of somebody else.
        """
        while not (found := self.find()).nothing:
            if limit.expired():
                return found.living
            if not self.strike(found):
                time.sleep(min(PAUSE_S, limit.left()))
        return ()

    def strike(self, found: Found) -> bool:
        """Stop those that are new since the last time, or kill all if nobody is; whether somebody was new."""
        news = [process for process in found.living if process.key not in self._stopped]
        for process in news:
            send(process, signal.SIGSTOP)
        self._stopped |= {process.key for process in news}
        if not news:
            self.kill(found.living)
        return bool(news)

    def kill(self, living: Collection[Process]) -> None:
        """Kill those that were seen, and the members of the control group."""
        if self.group is not None:
            self.group.kill({*line_of_us(), *self.ours()})
        for process in living:
            send(process, signal.SIGKILL)

    def _too_old(self, process: Process) -> bool:
        return process.start_ticks < self.proof.start_ticks

    def _session(self, seen: Snapshot) -> set[int]:
        """The leader and its session, if it is there: a zombie will do."""
        leader = seen.processes.get(self.proof.pid)
        if leader is None or leader.start_ticks != self.proof.start_ticks:
            return set()
        return {one.pid for one in seen.processes.values() if leader.pid in (one.pid, one.session)}

    def _marked(self, process: Process) -> bool:
        """Whether it was proven before, or carries the mark."""
        return process.key in self._known or (self.proof.mark != "" and has_mark(process.pid, self.proof.mark))


def end_proven(proof: Proof, limit: Deadline, soft: Deadline | None = None) -> int:
    """End what an earlier pilot has left of its payload; the number of processes that could not be ended.

    With ``soft`` they get a TERM and time until then. Of another boot or pid namespace nothing is looked at,
    not even a control group that still exists: the journal may lie on a volume that came to another pod of
    the node, while the payload is alive and well under its own pilot.
    """
    family = _provable(proof)
    if family is None:
        return 0
    if soft is not None and family.tell(signal.SIGTERM):
        while not soft.expired() and family.find().living:
            time.sleep(min(PAUSE_S, soft.left()))
    survivors = len(family.end(limit))
    if family.group is not None:
        family.group.remove()
    return survivors


def end_all_proven(proofs: Collection[Proof], limit: Deadline) -> int:
    """As `end_proven`, of several payloads at once: one that cannot be ended takes no time from the others."""
    families = [family for proof in proofs if (family := _provable(proof)) is not None]
    left = [(family, family.find()) for family in families]
    while left and not limit.expired():
        struck = [family.strike(found) for family, found in left]
        if not any(struck):
            time.sleep(min(PAUSE_S, limit.left()))
        left = [(family, found) for family, _ in left if not (found := family.find()).nothing]
    for family, found in left:
        family.kill(found.living)  # some may be stopped
    for family in families:
        if family.group is not None and not limit.expired():
            family.group.remove()
    return sum(len(found.living) for _, found in left)


def _provable(proof: Proof) -> Proven | None:
    """The processes that it proves; None where its numbers mean nothing."""
    here = (boot_id(), pid_namespace())
    if not all(here) or (proof.boot_id, proof.pid_namespace) != here or not readable():
        return None
    return Proven(proof, Subgroup.found(proof.cgroup, proof.mark))


def crowd(living: Collection[Process], seen: Snapshot) -> bool:
    """Whether there are too many for ceremonies, or too many to count."""
    return len(living) > _CROWD or not seen.complete


def line_of_us() -> set[int]:
    """We and our ancestors."""
    line = {os.getpid()}
    with contextlib.suppress(OSError):
        parent = os.getppid()
        while parent > 0:
            line.add(parent)
            process = look(parent)
            parent = process.parent if process is not None else 0
    return line
