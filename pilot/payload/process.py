"""The payload's process: a session and a group of its own, awaited by pidfd, stopped by TERM and then KILL."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pilot.values.deadline import Deadline
from pilot.values.errors import PayloadNotStarted
from pilot.values.outcome import PayloadEnd
from pilot.values.stop import Stop


class PayloadProcess:
    """A running ``/bin/sh -c text``. Leaving the block ends what is left of its process group."""

    def __init__(self, text: str, work: Path, environment: Mapping[str, str], stdout: Path, stderr: Path) -> None:
        """Start it in ``work``, its output going straight into the two files. Raises PayloadNotStarted."""
        try:
            with stdout.open("wb") as out, stderr.open("wb") as err:
                self._child = subprocess.Popen(
                    ["/bin/sh", "-c", text],  # P7: the payload's text, and no other byte of the job
                    cwd=work,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            raise PayloadNotStarted(f"the payload could not be started: {_why(error)}") from error
        self.pid = self._child.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._end: PayloadEnd | None = None

    def wait(self, deadline: Deadline, stop: Stop | None = None) -> bool:
        """Whether it has ended; False when the deadline came, or the stop was asked for, before it."""
        watched = [self._pidfd] if stop is None else [self._pidfd, stop.fileno()]
        ready, _, _ = select.select(watched, [], [], deadline.timeout())
        return self._pidfd in ready

    def stop(self, soft: Deadline) -> None:
        """TERM to the group, and KILL when ``soft`` has come and it still runs."""
        self._signal(signal.SIGTERM)
        if not self.wait(soft):
            self._signal(signal.SIGKILL)
            self.wait(Deadline.after(10))  # longer only for a process that the kernel itself cannot end

    def collect(self) -> PayloadEnd:
        """Exit code, CPU and peak memory of the ended process; what it left in its group is killed first.

        The leader is not reaped before: as long as it is a zombie, nobody else can get the group's number.
        """
        if self._end is None:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
            self._signal(signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
            self._child.returncode = os.waitstatus_to_exitcode(status)
            self._end = PayloadEnd(self._child.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
            os.close(self._pidfd)
        return self._end

    def __enter__(self) -> Self:
        """Nothing but the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the group if it still runs, and reap."""
        if self._end is None:
            self._signal(signal.SIGKILL)
            self.collect()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return "its command line is longer than the kernel takes"
    return str(error)


def last_line(file: Path, most_bytes: int = 4096) -> str:
    """The last line of a text file that is not blank, at most 200 characters; "" if there is none."""
    lines = tail(file, most_bytes).splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


def tail(file: Path, most_bytes: int) -> str:
    """The end of a file as text; what is not UTF-8 is replaced."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - most_bytes))
            return stream.read(most_bytes).decode("utf-8", "replace")
    except OSError:
        return ""
