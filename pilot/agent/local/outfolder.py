"""The directory of a study that is tuned: the server's data, the pilot's scratch, their logs, and what came out."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pilot.runner import journal
from pilot.runner.past import tell
from pilot.values.errors import PilotError, UsageError

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class OutFolder:
    """``root`` is absolute."""

    root: Path

    @property
    def serve(self) -> Path:
        """The embedded server's data: the study itself is here."""
        return self.root / "serve"

    @property
    def work(self) -> Path:
        """The scratch volume of `pilot run`, with its journal."""
        return self.root / "work"

    @property
    def log(self) -> Path:
        """The events of all pilots, as JSON."""
        return self.root / "pilot.jsonl"

    @property
    def pilot_errors(self) -> Path:
        """Standard error of `pilot run`."""
        return self.root / "pilot.stderr"

    @property
    def settings(self) -> Path:
        """The settings file of `pilot run`."""
        return self.root / "pilot.yaml"

    @property
    def results(self) -> Path:
        """The points, and the best of them."""
        return self.root / "results.json"

    @property
    def leaderboard(self) -> Path:
        """The best points so far."""
        return self.root / "leaderboard.json"

    @property
    def page(self) -> Path:
        """The same with plots."""
        return self.root / "index.html"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Make the directory, for one `pilot tune` at a time. Raises UsageError."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self.serve.mkdir(exist_ok=True)
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"--out {self.root}: {error.strerror or error}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UsageError(f"--out {self.root}: another `pilot tune` is at work there") from None
        finally:
            os.close(fd)

    @property
    def port(self) -> int:
        """The port of the server's last life: an open job in the journal belongs to it. 0: any."""
        try:
            return int((self.serve / "port").read_text())
        except (OSError, ValueError):
            return 0

    def await_port(self, seconds: float) -> int:
        """The port of the last life, when it can be had, else a free one. Raises PilotError where it must be that one.

        A port that the server chose by itself could not be had again for a minute: it is bound differently.
        """
        port, end = self.port or _free_port(), time.monotonic() + seconds
        while not _is_free(port):
            if time.monotonic() > end:
                if self.holds_open_job:
                    raise PilotError(
                        f"port {port} is in use, and an evaluation of this study has begun for the server that was "
                        f"there: free it, or delete {self.work} to begin those points anew"
                    )
                port = _free_port()
            time.sleep(_LOOK_S)
        return port

    def keep_port(self, port: int) -> None:
        """For the next life."""
        (self.serve / "port").write_text(f"{port}\n")

    @property
    def holds_open_job(self) -> bool:
        """Whether an earlier life of the pilot has left a job that is to be brought to its end."""
        return tell(journal.read(self.work)).open is not None

    def await_server(self, seconds: float, say: Callable[[str], None]) -> None:
        """Until the server of a life that was killed is gone. Raises PilotError."""
        _await_lock(self.serve / "lock", seconds, say, "server")

    def await_pilot(self, seconds: float, say: Callable[[str], None]) -> None:
        """Until the pilot of a life that was killed has saved what it can. Raises PilotError."""
        _await_lock(self.work / journal.NAME, seconds, say, "pilot")

    def end_log_line(self) -> None:
        """A killed pilot may have left half a line."""
        with self.log.open("ab+") as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                if stream.read() != b"\n":
                    stream.write(b"\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    """Whether a server could listen on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _await_lock(file: Path, seconds: float, say: Callable[[str], None], who: str) -> None:
    end, told = time.monotonic() + seconds, False
    while _held(file):
        if not told:
            say(f"waiting for the {who} of an earlier run to end")
            told = True
        if time.monotonic() > end:
            raise PilotError(f"{file}: the {who} of an earlier run has not ended in {seconds:g} s: end it first")
        time.sleep(_LOOK_S)


def _held(file: Path) -> bool:
    """Whether a process holds the lock on a file."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
