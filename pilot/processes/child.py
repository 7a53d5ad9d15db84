"""The child's side of a helper process: JSON lines on pipes, and an end with its parent.

Imported at the start of every lane, which has to be quick.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from typing import Any

_PR_SET_PDEATHSIG = 1  # prctl(2)


class Answers:
    """The way up: JSON lines on what was stdout."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, message: dict[str, Any]) -> None:
        """Write one line, which a pipe takes in one piece or in several."""
        line = memoryview(json.dumps(message).encode() + b"\n")
        while line:
            line = line[os.write(self._fd, line) :]


def take_pipes() -> tuple[int, Answers]:
    """Move the pipes away from 0 and 1, so that a library that prints or asks cannot break the protocol."""
    asked, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return asked, Answers(answers)


def die_with(parent: int | None) -> None:
    """Ask the kernel for SIGKILL when the parent dies: in a call that hangs nobody reads the pipe.

    ``parent`` is its pid, by which a death before the asking is noticed; None where it is not known.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
