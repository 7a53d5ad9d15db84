"""The child's side of a helper process: JSON lines on pipes, nobody who looks into it, and an end with its parent.

Imported at the start of every lane, which has to be quick.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # prctl(2)


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


def close_to_others() -> None:
    """Close ``/proc/PID/mem``, ``environ``, ``fd`` and ptrace to other processes of our uid; and leave no core.

    A payload has our uid, and could read our credentials there. What we start is open again, once it has begun. A
    process with CAP_SYS_PTRACE may look all the same. Where there is no prctl, nothing changes.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with(parent: int | None) -> None:
    """The first thing to do: nobody looks into us, and the kernel ends us when the parent dies.

    In a call that hangs nobody would read the pipe.

    ``parent`` is its pid, by which a death before the asking is noticed; None where it is not known.
    """
    close_to_others()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
