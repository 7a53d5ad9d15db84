"""TERM and INT become a stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pilot.values.stop import Reason, Stop


@contextmanager
def stop_on_signals(*, in_pod: bool) -> Iterator[Stop]:
    """A stop that TERM and INT ask for; the handler does nothing else. The handlers of before come back.

    To be entered before anything slow: PID 1 ignores a signal that it has no handler for.
    """
    reason = Reason.PREEMPTED if in_pod else Reason.SIGTERM
    with Stop() as stop:
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, lambda _number, _frame: stop.request(reason))
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
