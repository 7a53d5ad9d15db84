"""The payload's process: a session and a group of its own, awaited by pidfd, ended with all that it has started."""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from pilot.files.kept import KeptFile
from pilot.payload.procfs import MARK_NAME, Process, waits_in
from pilot.payload.proven import QUIET, Found
from pilot.payload.subgroup import Subgroup
from pilot.payload.tree import Beside, Tree, children_so_far, proof_of
from pilot.processes.starting import is_scarce, patiently, why_scarce
from pilot.values.deadline import Deadline
from pilot.values.errors import PayloadNotStarted
from pilot.values.events import events
from pilot.values.outcome import PayloadEnd
from pilot.values.stop import Stop, Waitable

log = events(__name__)

_ENTER = '{ echo 0 >"$0"; } 2>/dev/null; exec /bin/sh -c "$1"'
"""Puts the process into the control group ($0), if it can, before it becomes the payload ($1)."""

_KILLED_S = 10.0  # a process that takes longer to die is held by the kernel
_KILLED_AGAIN_S = 0.5
_REAP_S = 1.0
"""How often ended orphans are reaped while the payload runs: each holds a place below the pod's limit of
processes, and there is no descriptor that tells of them (SIGCHLD would go through `agent.signals`)."""

_PAUSE_S = 0.02


class PayloadProcess:
    """A running ``/bin/sh -c text``. Leaving the block ends what is left of its tree. To be used by one thread."""

    def __init__(
        self,
        text: str,
        work: Path,
        environment: Mapping[str, str],
        stdout: KeptFile,
        stderr: KeptFile,
        *,
        mark: str = "",
        ours: Callable[[], Collection[int]] = tuple,
        alone: bool = True,
        leftovers_s: float = 1.0,
        until: Deadline | None = None,
        wakers: Collection[Waitable] = (),
    ) -> None:
        """Start it in ``work``, its output going straight into the two files. Raises PayloadNotStarted.

        Args:
            text: the payload.
            work: the directory that it starts in.
            environment: all of its environment, but for the mark.
            stdout: gets its output.
            stderr: gets its error output.
            mark: a uuid that no other payload has; it names its control group, and proves its processes later.
            ours: the numbers of our other children; neither they nor what they start is touched here.
            alone: whether no other payload runs. Where others may, their leaders are in ``ours`` and ``mark`` is given.
            leftovers_s: between TERM and KILL for what it leaves behind: time to remove a lock file.
            until: so long it is tried again while the system has no process to give; not at all without.
            wakers: what ends that earlier.
        """
        self._leftovers_s = leftovers_s
        self._killing = False
        self._end: PayloadEnd | None = None
        self._subgroup = Subgroup.make(mark)
        before = children_so_far()
        environment = {**environment, **({MARK_NAME: mark} if mark else {})}
        try:
            command, quiet = _command(text, self._subgroup), subprocess.DEVNULL
            out, err = stdout.fileno(), stderr.fileno()
            start = partial(
                subprocess.Popen, command, cwd=work, env=environment, stdin=quiet, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
            self._child = patiently(start, until or Deadline.after(0), *wakers)
        except (OSError, ValueError) as error:
            self._remove_subgroup()
            raise PayloadNotStarted(f"the payload could not be started: {_why(error)}") from error
        self.pid = self._child.pid
        self.proof = proof_of(self.pid, mark, self._subgroup)
        self._tree = (Tree if alone else Beside)(self.proof, self._subgroup, ours, before)
        self._pidfd = self._watched()

    def _watched(self) -> int:
        """The descriptor of its first process."""
        try:
            return os.pidfd_open(self.pid)
        except OSError as error:
            self._tree.end(Deadline.after(_KILLED_S))
            self._child.wait()
            self._remove_subgroup()
            raise PayloadNotStarted(f"the payload could not be watched: {error.strerror}") from error

    def fileno(self) -> int:
        """Becomes readable when it has ended; for a selector, until it is collected. Raises ValueError after that."""
        if self._end is not None:
            raise ValueError("the payload was collected: its descriptor is closed")
        return self._pidfd

    def ended(self) -> bool:
        """Whether its first process has ended; what it has started may live."""
        return self._end is not None or self.wait(Deadline.after(0))

    def wait(self, deadline: Deadline, *stops: Stop) -> bool:
        """Whether it has ended; False when the deadline came, or one of the stops was asked for, before it.

        Orphans of it that have ended are reaped meanwhile.
        """
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        for one in stops:
            poll.register(one, select.POLLIN)
        while True:
            self._tree.reap()
            ready = [descriptor for descriptor, _ in poll.poll(self._milliseconds(deadline))]
            if ready or deadline.expired():
                return self._pidfd in ready

    def living(self) -> list[int]:
        """The pids of its processes now."""
        return [process.pid for process in self._tree.find().living]

    def buried_s(self) -> float:
        """CPU seconds of its orphans that have ended."""
        return self._tree.usage.cpu_s

    def tell(self, number: signal.Signals) -> None:
        """Give a signal to the whole tree, and wait for nothing."""
        if self._end is None:
            self._tree.tell(number)

    def empty(self) -> bool:
        """Whether nothing of it is left but its exit code; a few milliseconds for a look at all processes."""
        return self._end is not None or (self.ended() and self._left().nothing)

    def kill(self, hard: Deadline | None = None) -> None:
        """KILL to what is left of the tree; what the kernel does not end is waited for until ``hard`` (10 s)."""
        if self._end is None:
            self._kill(hard or Deadline.after(_KILLED_S))
            self.wait(Deadline.after(0))

    def stop(
        self,
        soft: Deadline,
        number: signal.Signals = signal.SIGTERM,
        hurry: Stop | None = None,
        hard: Deadline | None = None,
    ) -> None:
        """Give ``number`` to the whole tree, and KILL to what is left of it at ``soft``, or at ``hurry``.

        What the kernel does not end is waited for until ``hard`` (10 s).
        What the payload has started has the same time as the payload itself: a shell dies of a TERM at once,
        while the program that it ran is still saving its state.
        """
        if self._end is not None:
            return
        hurries = () if hurry is None else (hurry,)
        self._tree.tell(number)
        if self.wait(soft, *hurries):
            self._emptied(soft, *hurries)
        self.kill(hard)

    def collect(self, limit: Deadline | None = None) -> PayloadEnd:
        """Exit code, CPU and peak memory of the payload, after all that is left of its tree was ended and reaped.

        If it has ended by itself, what it left behind gets a TERM and ``leftovers_s``. A process that the kernel
        holds (state D) is not waited for beyond ``limit`` (10 s): it is logged, and counted as a survivor.
        The leader is reaped last: as long as it is a zombie, nobody else can get the number of its group.
        """
        if self._end is None:
            limit = limit or Deadline.after(_KILLED_AGAIN_S if self._killing else _KILLED_S)
            leftovers = 0 if self._killing or not self.wait(Deadline.after(0)) else self._see_off(limit)
            survivors = self._kill(limit)
            for process in survivors:
                self._tell_survivor(process)
            self._end = self._reaped(leftovers, len(survivors))
            os.close(self._pidfd)
            self._remove_subgroup()
        return self._end

    def __enter__(self) -> Self:
        """Nothing but the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the tree if it is still there, and reap."""
        if self._end is None:
            self._kill(Deadline.after(_KILLED_S))
            self.collect()

    def _milliseconds(self, deadline: Deadline) -> int | None:
        """How long to wait at once."""
        seconds = min(deadline.left(), _REAP_S if self._tree.gets_orphans else math.inf)
        return None if math.isinf(seconds) else math.ceil(seconds * 1000)

    def _emptied(self, limit: Deadline, *stops: Stop) -> bool:
        """Whether the tree has ended by itself before the limit, or a stop."""
        poll = select.poll()
        for one in stops:
            poll.register(one, select.POLLIN)
        while not self._tree.find().nothing:
            if limit.expired() or poll.poll(math.ceil(min(_PAUSE_S, limit.left()) * 1000)):
                return False
            self._tree.reap()
        return True

    def _see_off(self, limit: Deadline) -> int:
        """Ask what was left behind to end; how many processes there were."""
        found = self._left()
        if found.nothing:
            return 0
        began = time.monotonic()
        leftovers = max(1, len(found.living))  # one that forks without end may hide from a look
        if not found.crowd:
            self._tree.tell(signal.SIGTERM)
            self._emptied(Deadline.after(self._leftovers_s).sooner(limit))
        survivors = self._kill(limit)
        log.warning(
            "ended what the payload left behind",
            leftovers=leftovers,
            survivors=len(survivors),
            seconds=time.monotonic() - began,
        )
        return leftovers

    def _left(self) -> Found:
        """A look at what was left behind; another one as long as it tells neither that there is something nor not."""
        for _ in range(QUIET):
            self._tree.reap()
            found = self._tree.find()
            if found.nothing or found.living:
                break
        return found

    def _kill(self, limit: Deadline) -> tuple[Process, ...]:
        """Kill the whole tree; who is left."""
        self._killing = True
        survivors = self._tree.end(limit)
        self._tree.reap()
        return survivors

    def _reaped(self, leftovers: int, survivors: int) -> PayloadEnd:
        """The leader's exit status; -9 for one that the kernel does not let die."""
        ended, status, usage = os.wait4(self.pid, os.WNOHANG)
        total = self._tree.usage
        if ended:
            total.add(usage)
        self._child.returncode = os.waitstatus_to_exitcode(status) if ended else -signal.SIGKILL
        code = self._child.returncode
        return PayloadEnd(code, total.cpu_s, total.max_rss_kib, survivors=survivors, leftovers=leftovers)

    def _tell_survivor(self, process: Process) -> None:
        log.error(
            "a process of the payload cannot be ended",
            pid=process.pid,
            name=process.name,
            state=process.state,
            wchan=waits_in(process.pid) or None,
        )

    def _remove_subgroup(self) -> None:
        if self._subgroup is not None and not self._subgroup.remove():
            log.warning("the payload's control group could not be removed", path=self._subgroup.path)


def _command(text: str, group: Subgroup | None) -> list[str]:
    """What runs the payload's text, and no other byte of the job (promise P7)."""
    if group is None:
        return ["/bin/sh", "-c", text]
    return ["/bin/sh", "-c", _ENTER, str(group.entrance), text]


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return "its command line is longer than the kernel takes"
    return why_scarce(error) if is_scarce(error) else str(error)
