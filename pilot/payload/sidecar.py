"""Evaluations in sidecar containers: handed over by files in a directory that both see (hpo-contract.md 1, 10.6).

The names are those of ``wrappers/payload-sidecar.sh``, which says what each is for. An evaluation has a token, so that
the end of another one is not taken for its own. A runner of the plain contract knows no more than the two sync files:
its status is unknown (0), it cannot be told anything, and nobody sees its death.
"""

from __future__ import annotations

import math
import os
import select
import shlex
import signal
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pilot.files.kept import KeptFile
from pilot.payload import sync
from pilot.values.deadline import Deadline
from pilot.values.errors import PayloadNotStarted
from pilot.values.events import events
from pilot.values.outcome import PayloadEnd
from pilot.values.stop import Stop

log = events(__name__)

ALIVE = "__payload_alive__"
_IN = "__payload_in_sync_file__"
_OUT = "__payload_out_sync_file__"
_RUNNING = "__payload_running__"
_STOP = "__payload_stop__"
_SCRIPT = "__run_main_exec.sh"
_TEXT = "__payload_text__"
_PRINTED = ("payload.stdout", "payload.stderr")

_ALIVE_S = 10.0
_TAKEN_S = 30.0  # a runner that lives and does not take the work: its disk is full, or it is not ours
_HARD_S = 10.0
_SHORTEST_S, _LONGEST_S = 0.05, 1.0

_RUN = """#!/bin/sh
case $0 in */*) cd "${0%/*}" || exit 126 ;; esac
exec </dev/null >payload.stdout 2>payload.stderr
"""
_RUN_END = """[ -w "${HOME:-/}" ] || export HOME="$PWD"
exec /bin/sh "$1"
"""


class Sidecar:
    """A container that evaluates; ``root`` is its directory as we see it. To be used by one thread."""

    def __init__(self, root: Path, alive_s: float = _ALIVE_S) -> None:
        """It is taken for dead when it has not said for ``alive_s`` seconds that it lives."""
        self.root = root
        self._alive_s = alive_s
        self._seen: tuple[int, bytes] | None = None
        self._changed_at = 0.0
        self.tells = False

    def alive(self, now: float | None = None) -> bool:
        """Whether it has given a sign of life of late. ``now``: seconds on the monotonic clock.

        True for one that never gave any: it knows the plain contract only. False at once for one that has left.
        """
        now = time.monotonic() if now is None else now
        content = sync.read(self.root / ALIVE)
        if content is None:
            return self._seen is None or not self.tells
        self.tells = self.tells or bool(content)
        sign = (sync.changed(self.root / ALIVE), content)
        if sign != self._seen:
            self._seen, self._changed_at = sign, now
        return not self.tells or now - self._changed_at < self._alive_s


def find_sidecars(folder: Path) -> list[Sidecar]:
    """One for each subdirectory in which a runner has said that it lives, by name."""
    try:
        roots = sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return []
    return [Sidecar(root) for root in roots if sync.read(root / ALIVE) is not None]


class SidecarEvaluation:
    """A payload in a sidecar; its face is that of a `PayloadProcess`, but for a descriptor. To be used by one thread.

    ``lost``: nobody has seen its end, for its sidecar is gone. ``restarted``: its sidecar was killed beneath it, often
    for the memory that it took, and is there again; its exit status is 137 then.
    """

    def __init__(self, sidecar: Sidecar, text: str, work: Path, environment: Mapping[str, str]) -> None:
        """Hand it over. Raises PayloadNotStarted.

        Args:
            sidecar: evaluates nothing else meanwhile.
            text: the payload, for its shell; not one byte is changed (promise P7).
            work: the directory that it starts in, below the sidecar's; links out of that lead nowhere there.
            environment: is added to its container's own.
        """
        self._sidecar = sidecar
        self._root = sidecar.root
        self._token = uuid.uuid4().hex
        self._code: int | None = None
        self._end: PayloadEnd | None = None
        self._taken = False
        self.lost = self.restarted = False
        self.stdout, self.stderr = (self._root / name for name in _PRINTED)
        if not sidecar.alive() or (self._root / _RUNNING).exists():
            why = "is still busy" if sidecar.alive() else "is gone"
            raise PayloadNotStarted(f"the evaluation could not be handed over: the sidecar {self._root.name} {why}")
        try:
            self._hand_over(text, work, environment)
        except (OSError, ValueError) as error:
            raise PayloadNotStarted(f"the evaluation could not be handed over: {error}") from None
        self._began = self._told_at = time.monotonic()

    def ended(self) -> bool:
        """Whether it has ended, as far as its sidecar tells, or is lost."""
        if self._code is not None:
            return True
        alive = self._sidecar.alive()
        if self._heard():
            return True
        if not alive:
            self._lose("its sidecar gives no sign of life")
        elif self._left_lying():
            self._lose(f"its sidecar has not begun it within {_TAKEN_S:g} s")
        return self.lost

    def due(self) -> float:
        """Seconds until one should look again: a tenth of what it runs for, at most 1."""
        since = time.monotonic() - self._told_at
        return min(_LONGEST_S, max(_SHORTEST_S, since / 10))

    def wait(self, deadline: Deadline, *stops: Stop) -> bool:
        """Whether it has ended; False when the deadline came, or one of the stops was asked for, before it."""
        poll = select.poll()
        for one in stops:
            poll.register(one, select.POLLIN)
        while not self.ended():
            seconds = min(deadline.left(), self.due())
            if poll.poll(math.ceil(seconds * 1000)) or deadline.expired():
                return self.ended()
        return True

    def living(self) -> list[int]:
        """The pids of its processes: they are another container's, and not for us to know."""
        return []

    def buried_s(self) -> float:
        """CPU seconds of what of it has ended: unknown."""
        return 0.0

    def tell(self, number: signal.Signals) -> None:
        """Have its sidecar give it a signal, and wait for nothing."""
        if not self.ended():
            self._told_at = time.monotonic()
            self._say(number)

    def _say(self, number: signal.Signals) -> None:
        word = "kill" if number == signal.SIGKILL else number.name.removeprefix("SIG")
        try:
            sync.write(self._root / _STOP, f"{word} {self._token}\n".encode())
        except OSError as error:
            log.warning("a sidecar could not be told", sidecar=self._root.name, signal=word, why=error.strerror)

    def kill(self, hard: Deadline | None = None) -> None:
        """KILL, and wait until ``hard`` (10 s) for its end."""
        self.tell(signal.SIGKILL)
        self.wait(hard or Deadline.after(_HARD_S))

    def stop(
        self,
        soft: Deadline,
        number: signal.Signals = signal.SIGTERM,
        hurry: Stop | None = None,
        hard: Deadline | None = None,
    ) -> None:
        """Give it ``number``, and KILL at ``soft``, or at ``hurry``; wait until ``hard`` (10 s) for its end."""
        if not soft.expired():
            self.tell(number)
            self.wait(soft, *(() if hurry is None else (hurry,)))
        self.kill(hard)

    def collect(self, limit: Deadline | None = None) -> PayloadEnd:
        """Its exit status (-9 for one that is lost); one that still runs is killed.

        One that is not reported to have ended until ``limit`` (10 s) counts as a survivor: its sidecar stays busy.
        """
        if self._end is None:
            if not self.ended():
                self.kill(limit)
            if self.lost:
                self._say(signal.SIGKILL)  # it may only have been slow
            survivors = int(self._code is None)
            if survivors:
                log.error("an evaluation cannot be ended", sidecar=self._root.name)
            with suppress(OSError):
                sync.remove(self._root / _IN)
            self._end = PayloadEnd(-signal.SIGKILL if self._code is None else self._code, survivors=survivors)
        return self._end

    def fetch(self, stdout: KeptFile, stderr: KeptFile) -> None:
        """Bring what it has printed to these two files; of much the last 64 MiB."""
        for source, target in ((self.stdout, stdout), (self.stderr, stderr)):
            try:
                sync.bring(source, target)
            except OSError as error:
                log.warning("output not fetched", sidecar=self._root.name, file=source.name, why=error.strerror)

    def _hand_over(self, text: str, work: Path, environment: Mapping[str, str]) -> None:
        """Write what it consists of; the file that begins it is the last, and appears whole."""
        run, payload = _script(work.relative_to(self._root), environment), os.fsencode(text)
        if b"\0" in run + payload:
            raise ValueError("embedded null byte")
        for name in (_IN, _OUT, _STOP, *_PRINTED):
            sync.remove(self._root / name)
        sync.write(self._root / _TEXT, payload)
        sync.write(self._root / _SCRIPT, run)
        sync.write(self._root / _IN, f"{self._token}\n".encode())

    def _heard(self) -> bool:
        """Whether its end was reported. What speaks of another evaluation is removed."""
        report = sync.read(self._root / _OUT)
        if report is None:
            return False
        code, token, more = (*report.decode("ascii", "replace").split(), "", "", "")[:3]
        if report.strip() and token != self._token:
            with suppress(OSError):
                sync.remove(self._root / _OUT)
            return False
        self._code = int(code) if code.isdecimal() else 0
        if more == "lost":
            self.restarted = True
            log.warning("an evaluation's sidecar was started again", sidecar=self._root.name)
        return True

    def _left_lying(self) -> bool:
        """Whether its sidecar, which lives, has not taken it for too long."""
        self._taken = self._taken or not self._sidecar.tells or not (self._root / _IN).exists()
        return not self._taken and time.monotonic() - self._began > _TAKEN_S

    def _lose(self, why: str) -> None:
        log.warning("evaluation lost", sidecar=self._root.name, why=why)
        self._code, self.lost = -signal.SIGKILL, True


def _script(work: Path, environment: Mapping[str, str]) -> bytes:
    """What the sidecar runs. It finds its place by itself: its container may see the directory under another name."""
    if ".." in work.parts or not all(name.isascii() and name.isidentifier() for name in environment):
        raise ValueError("a directory outside of the sidecar's, or a variable without a name")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    into = f'set -- "$PWD/{_TEXT}"\ncd {shlex.quote(f"./{work}")} || exit 126\n'
    return os.fsencode(_RUN + exports + into + _RUN_END)
