"""Starts the pilot's own commands as children that do not outlive us."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO

from pilot.processes.starting import is_scarce, patiently, why_scarce
from pilot.values.deadline import Deadline
from pilot.values.errors import PilotError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_START_S = 10.0


def _die_with_parent() -> None:
    """In the child, before exec: TERM when the parent dies, also if it has died just now."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def child(
    arguments: list[str], environment: Mapping[str, str], stderr: Path, stdout: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`pilot ARGUMENTS`; TERM, and KILL after 30 s, when the block ends before it.

    Its stdout is a pipe, or goes to the end of a file. It has a session of its
    own: a Ctrl-C is ours to translate into an orderly stop.
    """
    with (
        stderr.open("w") as err,
        _out(stdout) as out,
        _started([sys.executable, "-m", "pilot", *arguments], environment, out, err) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def _started(
    command: list[str], environment: Mapping[str, str], out: IO[bytes] | int, err: IO[str]
) -> subprocess.Popen[str]:
    """Raises PilotError where the system has had no process to give for some seconds."""
    start = partial(
        subprocess.Popen[str],
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        text=True,
        bufsize=1,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    try:
        return patiently(start, Deadline.after(_START_S))
    except OSError as error:
        why = why_scarce(error) if is_scarce(error) else error.strerror
        raise PilotError(f"`pilot {command[3]}` cannot be started: {why}") from error


def _out(file: Path | None) -> AbstractContextManager[IO[bytes] | int]:
    return nullcontext(subprocess.PIPE) if file is None else file.open("ab")


@contextmanager
def embedded_server(data: Path, environment: Mapping[str, str], *arguments: str, port: int = 0) -> Iterator[str]:
    """A `pilot serve` on a port of loopback, 0 for a free one; its URL. Raises PilotError with its last words."""
    errors = data.parent / "serve.stderr"
    with child(["serve", "--port", str(port), "--data", str(data), *arguments], environment, errors) as process:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("ready "):
            process.wait()
            raise PilotError(f"pilot serve did not start: {errors.read_text().strip()[-300:]}")
        yield line.split()[1]
