"""Notices: what the kernel tells of the files in a directory, so that waiting for one costs nothing (inotify(7)).

Where there is no inotify, or no more of it for this user, looks come at intervals instead.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pilot.values.events import events
from pilot.values.stop import Waitable

log = events(__name__)

_CLOSE_WRITE, _MOVED_TO, _CREATE, _ONLYDIR = 0x8, 0x80, 0x100, 0x01000000  # linux/inotify.h
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_SELDOM_S = 60.0  # what the kernel does not tell (another machine's writes on NFS) is seen all the same
_OFTEN_S = 1.0
_AFTER_S = 0.1


class Notices:
    """A file that is made, moved into its directory, or closed by who has written it. A lock goes with the closing."""

    def __init__(self, folder: Path, name: str) -> None:
        """Watch from now on."""
        self._fd = _watched(folder)
        self._name = os.fsencode(name) + b"\0"
        self._settled = False

    def wait(self, others: Sequence[Waitable] = (), seconds: float = _SELDOM_S) -> None:
        """Until something was told, one of ``others`` is ready, or the time is over; then look.

        A lock is dropped a moment after its file's end is told: that is waited for, and no busy writer makes us busy.
        """
        seconds = min(seconds, _SELDOM_S if self._fd is not None and self._settled else _OFTEN_S)
        watched: list[Waitable | int] = [*others, *([self._fd] if self._fd is not None else [])]
        ready, _, _ = select.select(watched, [], [], seconds)
        told = self._fd is not None and self._fd in ready and self._is_of_it(self._fd)
        if told:
            select.select([*others], [], [], min(seconds, _AFTER_S))
        self._settled = not told

    def _is_of_it(self, fd: int) -> bool:
        """Whether our file is among those that were told of; the names are padded with zeros."""
        found = False
        with suppress(BlockingIOError):
            while told := os.read(fd, 1 << 16):
                found = found or self._name in told
        return found

    def close(self) -> None:
        """Watch no more."""
        if self._fd is not None:
            os.close(self._fd)

    def __enter__(self) -> Self:
        """Close on leaving the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()


def _watched(folder: Path) -> int | None:
    """A descriptor that is readable when there is news; None where there is none to be had."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        fd = int(library.inotify_init1(_FLAGS))
    except (OSError, AttributeError):
        return None
    if fd < 0:
        log.debug("no inotify", why=os.strerror(ctypes.get_errno()))
        return None
    if library.inotify_add_watch(fd, os.fsencode(folder), _CLOSE_WRITE | _MOVED_TO | _CREATE | _ONLYDIR) < 0:
        log.debug("no inotify", why=os.strerror(ctypes.get_errno()))
        os.close(fd)
        return None
    return fd
