"""Mailbox: how the reporter answers main, which waits on descriptors and never on a socket."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import Generic, TypeVar

from pilot.values.deadline import Deadline
from pilot.values.stop import Waitable

M = TypeVar("M")


class Mailbox(Generic[M]):
    """A queue with one reader; `get` can also be woken by a stop or a drain."""

    def __init__(self) -> None:
        self._messages: deque[M] = deque()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)

    def put(self, message: M) -> None:
        """Add a message; from any thread."""
        self._messages.append(message)
        os.eventfd_write(self._fd, 1)

    def get(self, deadline: Deadline, *wakers: Waitable) -> M | None:
        """The next message; None when the deadline came, or one of ``wakers``, before it."""
        watched = [self._fd, *(waker.fileno() for waker in wakers)]
        ready, _, _ = select.select(watched, [], [], deadline.timeout())
        if self._fd not in ready:
            return None
        os.eventfd_read(self._fd)
        return self._messages.popleft()

    def fileno(self) -> int:
        """Readable while there are messages."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; messages that come later are dropped by the garbage collector."""
        os.close(self._fd)
