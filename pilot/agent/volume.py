"""Taking a scratch volume: one process at a time works on it, and the journal's lock says which."""

from __future__ import annotations

import select
import time
from pathlib import Path

from pilot.agent.signals import Asked
from pilot.runner.journal import Busy, Journal, read
from pilot.runner.past import tell
from pilot.values.events import events
from pilot.values.stop import share

log = events(__name__)

_AGAIN_S = 0.25  # between two looks at a lock that somebody holds: there is no descriptor to wait for


def take(work: Path, asked: Asked) -> Journal:
    """The volume's journal, for a pilot, when a recoverer is through. Raises Busy while another pilot has it."""
    told = False
    while True:
        try:
            return Journal.open(work)
        except Busy as busy:
            if busy.owner is None or busy.owner.role != "recover":
                raise
            if not told:
                log.info("a recovery is under way here: waiting for its end", pid=busy.owner.pid)
                told = True
        if pause(_AGAIN_S, asked):
            raise asked.stop.error()


def await_open_job(work: Path, asked: Asked, grace_s: float, *, wait: bool) -> Journal | None:
    """The volume's journal, when it holds a job that nobody works at any more; None when there is none.

    With ``wait`` a pilot that lives is outlived, and one that has not begun yet is waited for. A stop ends
    that, but a pilot that is just ending has its share of the grace period first.
    """
    first = tell(read(work)).life
    outlived = False
    while True:
        journal = None
        if tell(read(work)).life:
            try:
                journal = Journal.open(work, "recover")
            except Busy as busy:
                if not wait:
                    log.info("a pilot is at work here: nothing to recover", why=str(busy))
                    return None
                outlived = True
        if journal is not None:
            story = tell(journal.past)
            if story.open is not None:
                return journal
            journal.close()
            if outlived or story.life != first:
                return None
        late = share("outputs", grace_s, asked.stop, asked.hurry)
        if not wait or (late is not None and (not outlived or late.expired())):
            return None
        pause(_AGAIN_S, asked)


def pause(seconds: float, asked: Asked) -> bool:
    """Wait; True if a stop came, now or before."""
    if asked.stop.reason is not None:
        time.sleep(seconds)
        return True
    return bool(select.select([asked.stop], [], [], seconds)[0])
