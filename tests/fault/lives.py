"""One job and its server, and the lives of a pilot on one volume: processes that strace looks at, or breaks."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from pilot.embedded.server import EmbeddedServer
from pilot.runner import journal
from pilot.runner.past import tell
from tests.lab import clean_environment, until
from tests.local import LocalToken

LIFE_S = 60.0
INPUTS = ("a", "b")
_BURIED_S = 3.0
_IDLE_LIMIT_S = 1
_SERVER_ENDS = ("finished", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Tap:
    """What strace does to one life: the calls of a scope are traced, and one of them breaks, perhaps."""

    scope: str
    calls: tuple[str, ...]
    breaks: str = ""

    def options(self, trace: Path) -> list[str]:
        """For strace. A question mark lets it pass over a call that this machine does not have."""
        names = ",".join("?" + one for one in self.calls)
        breaks = ["-e", f"inject={names}:{self.breaks}"] if self.breaks else []
        return ["-qq", "-y", "-s", "200", "-o", str(trace), "-e", "signal=none", "-e", f"trace={names}", *breaks]


@dataclass(slots=True)
class Life:
    """One process of the pilot, which has ended. ``left_open``: it has left a job in the journal."""

    command: list[str]
    code: int
    began_at: float
    gone_at: float
    said: Path
    trace: Path
    left_open: bool


@dataclass(slots=True)
class Rig:
    """A server, a job with two inputs and two outputs on it, and a volume; ``base`` is in what all of it is given."""

    base: Path
    server: EmbeddedServer
    session: requests.Session
    inputs: tuple[str, ...] = INPUTS
    environment: dict[str, str] = field(default_factory=dict)
    job: int = 0
    lives: list[Life] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """The scratch volume."""
        return self.base / "volume"

    @property
    def runs(self) -> Path:
        """A line for each time that the payload was run."""
        return self.base / "runs"

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """A call of the server's own."""
        with self.session.request(method, self.server.url + path, timeout=30, **more) as answer:
            answer.raise_for_status()
            return answer.json() if answer.content else None

    def submit(self) -> None:
        """The job: its payload leaves a line, its outputs, and a process that does not want to go."""
        inputs = []
        for name in self.inputs:
            self.ask("PUT", f"/store/test/{name}", data=name.encode() * 1000)
            inputs.append({"name": f"in.{name}", "url": f"{self.server.url}/store/test/{name}"})
        command = (
            f"echo $PANDAID >> {shlex.quote(str(self.runs))}; (setsid sleep 60 >/dev/null 2>&1 &); "
            "for i in a b; do cp in.$i out.$i 2>/dev/null || echo none > out.$i; done; echo done"
        )
        job = {"name": "loop", "command": command, "inputs": inputs, "outputs": ["out.a", "out.b"]}
        self.job = self.ask("POST", "/local/jobs", json={"definition": job})["id"]

    def live(self, *command: object, tap: Tap | None = None) -> Life:
        """One life of the pilot, to its end."""
        stem = self.base / f"life-{len(self.lives) + 1}"
        said, trace = stem.with_suffix(".out"), stem.with_suffix(".trace")
        words = ["-m", "pilot", *map(str, command), "--work", str(self.work), "--server", self.server.url]
        program, words = self._tapped(words, trace, tap)
        began_at = time.time()
        with said.open("wb") as out:
            process = subprocess.Popen(  # the program stands apart: its first word tells the pilot where python is
                words, executable=program, env=self._environment(), stdout=out, stderr=out, start_new_session=True
            )
        try:
            code = process.wait(LIFE_S)
        except subprocess.TimeoutExpired:
            code = -signal.SIGALRM
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.lives.append(Life(words, code, began_at, time.time(), said, trace, self._is_open))
        return self.lives[-1]

    def _environment(self) -> dict[str, str]:
        """Short limits, so that a loop of hundreds of lives takes minutes."""
        short = {"PILOT_LOST_ANSWER": "0.1", "PILOT_IDLE_LIMIT": str(_IDLE_LIMIT_S)}
        return {**clean_environment(), **short, **self.environment}

    def _tapped(self, words: list[str], trace: Path, tap: Tap | None) -> tuple[str, list[str]]:
        """The program, and its command line with the name that it goes by."""
        if tap is None:
            return sys.executable, [sys.executable, *words]
        if tap.scope == "lane":
            return sys.executable, [str(_lane_python(self.base, tap.options(trace))), *words]
        threads = ["-f", "-b", "execve"] if tap.scope == "pilot" else []
        return "strace", ["strace", *threads, *tap.options(trace), sys.executable, *words]

    @property
    def state(self) -> dict[str, Any]:
        """The server's word on the job."""
        return self.ask("GET", f"/local/jobs/{self.job}")

    @property
    def taken(self) -> bool:
        """Whether the pilot has ever known of the job: it was written down, or told of."""
        known = any(one.left_open or f"job={self.job}" in one.said.read_text(errors="replace") for one in self.lives)
        return known or any(one["call"] == "update_job" for one in self.state["history"])

    @property
    def is_lost(self) -> bool:
        """Whether the job was sent, and no pilot has seen it: the server's own time limit ends it."""
        return self.state["state"] == "sent" and not self.taken

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done here."""
        return not self._is_open and (self.state["state"] in _SERVER_ENDS or self.is_lost)

    @property
    def _is_open(self) -> bool:
        return tell(journal.read(self.work)).open is not None

    def settle(self) -> None:
        """Give the server time for its verdict on a job whose end it was told."""
        with contextlib.suppress(AssertionError):
            until(lambda: self.state["state"] != "holding", 10)

    def outcome(self) -> str:
        """The end, as the table counts it."""
        state = self.state
        if self.is_lost:
            return "lost answer"
        if state["state"] == "failed":
            return f"failed {state['pilot_error_code'] or state['exit_code'] or '?'}"
        return f"{state['state']}{self._late()}"

    def _late(self) -> str:
        """Whether a later life has brought the end: of a job that the first had taken, or had not."""
        first = self.lives[0].said.read_text(errors="replace")
        if len(self.lives) == 1 or "final delivered" in first:
            return ""
        return " by recovery" if "job acquired" in first else ", taken by a later life"


def _lane_python(base: Path, options: list[str]) -> Path:
    """A python of its own for the pilot, which starts its first lane with it: that one is traced.

    It looks like the one of this virtual environment. The pilot itself is started by the real one under this name.
    """
    home = base / "python"
    (home / "bin").mkdir(parents=True)
    (home / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", home)
    python = home / "bin/python"
    real, traced = shlex.quote(sys.executable), shlex.join(["strace", "-D", *options])
    first = f"mkdir {shlex.quote(str(home))}/first 2>/dev/null"
    python.write_text(f'#!/bin/sh\n{first} || exec {real} "$@"\nexec {traced} {real} "$@"\n')
    python.chmod(0o755)
    return python


@contextlib.contextmanager
def rigged(inputs: tuple[str, ...] = INPUTS, *, job: bool = True) -> Iterator[Rig]:
    """A fresh server, job and volume; without ``job`` there is none yet."""
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loop-", ignore_cleanup_errors=True)))
        session = stack.enter_context(requests.Session())
        session.trust_env = False
        server = stack.enter_context(EmbeddedServer(base / "server", adder_delay_s=0.01))
        session.auth = LocalToken(server.local_token)
        rig = Rig(base, server, session, inputs)
        try:
            if job:
                rig.submit()
            yield rig
        finally:
            for pid in _left(base):  # ours: nobody else was given this directory
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def until_gone(base: Path) -> list[str]:
    """What still runs of those that were given this directory, a moment later."""
    with contextlib.suppress(AssertionError):
        until(lambda: not _left(base), _BURIED_S)
    return [f"{pid} {_proc(pid, 'cmdline').decode(errors='replace')[:200]}" for pid in _left(base)]


def _left(base: Path) -> list[int]:
    place = os.fsencode(base)
    pids = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal() and int(one.name) != os.getpid()]
    return [pid for pid in pids if _given(place, pid)]


def _given(place: bytes, pid: int) -> bool:
    """Whether a process that lives has the directory in what it was started with, or is in it."""
    if _proc(pid, "stat").rpartition(b")")[2][1:2] in (b"Z", b"X", b""):
        return False
    try:
        inside = os.fsencode(Path(f"/proc/{pid}/cwd").readlink()).startswith(place)
    except OSError:
        inside = False
    return inside or place in _proc(pid, "cmdline").replace(b"\0", b" ") or place in _proc(pid, "environ")


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
