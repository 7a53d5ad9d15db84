"""TERM and INT become a stop, USR1 a drain; the rest is other people's work.

The handlers set an event and wake main. The kernel's own note of a signal goes to a pipe that the watchdog
reads, so a TERM is known even while main is stuck in a native call and runs no handler.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pilot.values.stop import Drain, Reason, Stop


@dataclass(frozen=True, slots=True)
class Asked:
    """What the outside can ask of a pilot.

    ``reason`` is what a TERM means here; ``arrivals`` is a descriptor with one byte per signal, its number.
    """

    reason: Reason
    arrivals: int
    stop: Stop = field(default_factory=Stop)
    hurry: Stop = field(default_factory=Stop)
    drain: Drain = field(default_factory=Drain)

    def why(self, number: int | None) -> Reason:
        """What a signal means that has not been handled yet (None: not known), unless a stop was asked for before."""
        return self.stop.reason or (Reason.SIGINT if number == signal.SIGINT else self.reason)

    def end(self, reason: Reason) -> None:
        """Stop; asked for again: with less ceremony."""
        if self.stop.reason is not None:
            self.hurry.request(reason)
        self.stop.request(reason)


@contextmanager
def signals(*, in_pod: bool) -> Iterator[Asked]:
    """Listen to signals; the handlers of before come back.

    To be entered before anything slow: PID 1 ignores a signal that it has no handler for.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    asked = Asked(Reason.PREEMPTED if in_pod else Reason.SIGTERM, reader)
    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: lambda: asked.end(asked.reason),
        signal.SIGINT: lambda: asked.end(Reason.SIGINT),
        signal.SIGUSR1: asked.drain.request,
    }
    before = {number: signal.getsignal(number) for number in handlers}
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in handlers:
        signal.signal(number, lambda number, _frame: handlers[signal.Signals(number)]())
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        for fd in (reader, writer):
            os.close(fd)
        asked.stop.close()
        asked.hurry.close()
