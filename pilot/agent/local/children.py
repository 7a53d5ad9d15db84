"""Starts the pilot's own commands as children that do not outlive us."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pilot.values.errors import PilotError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In the child, before exec: TERM when the parent dies, also if it has died just now."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def child(arguments: list[str], environment: Mapping[str, str], stderr: Path) -> Iterator[subprocess.Popen[str]]:
    """`pilot ARGUMENTS` with its stdout as a pipe; TERM, and KILL after 30 s, when the block ends before it.

    It has a session of its own: a Ctrl-C is ours to translate into an orderly stop.
    """
    with (
        stderr.open("w") as err,
        subprocess.Popen(
            [sys.executable, "-m", "pilot", *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            bufsize=1,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - we are single-threaded here
        ) as process,
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


@contextmanager
def embedded_server(data: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """A `pilot serve` on a free port of loopback; its URL. Raises PilotError with its last words."""
    errors = data.parent / "serve.stderr"
    with child(["serve", "--port", "0", "--data", str(data)], environment, errors) as process:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("ready "):
            process.wait()
            raise PilotError(f"pilot serve did not start: {errors.read_text().strip()[-300:]}")
        yield line.split()[1]
