"""Taking a scratch volume: one process at a time works on it, and the journal's lock says which."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pilot.agent.signals import Asked
from pilot.files.opening import permit
from pilot.runner.area import JobArea
from pilot.runner.journal import NAME, Busy, Journal, is_begun, owner_of, place
from pilot.runner.past import Story, story_of
from pilot.values.deadline import Deadline
from pilot.values.events import events
from pilot.values.stop import share

log = events(__name__)

_SURE_S = 1.0  # for so long a pilot is met that has the volume: who has just locked it has not yet written its name
_AGAIN_S = 0.1


def take(work: Path, asked: Asked) -> Journal:
    """The volume's journal, for a pilot, when a recoverer is through. Raises Busy while another pilot has it."""
    try:
        return Journal.open(work)
    except Busy:
        return _take_later(work, asked)


def _take_later(work: Path, asked: Asked) -> Journal:
    from pilot.agent.notices import Notices  # noqa: PLC0415 - ctypes, which a pilot alone need not load

    told, sure = False, Deadline.after(_SURE_S)
    with Notices(work, NAME) as notices:
        while asked.stop.reason is None:
            try:
                return Journal.open(work)
            except Busy as busy:
                recoverer = busy.owner if busy.owner is not None and busy.owner.role == "recover" else None
                if recoverer is None and sure.expired():
                    raise
            if recoverer is None:
                notices.wait([asked.stop], _AGAIN_S)
                continue
            sure = Deadline.after(_SURE_S)
            if not told:
                log.info("a recovery is under way here: waiting for its end", pid=recoverer.pid)
            told = True
            notices.wait([asked.stop])
    raise asked.stop.error()


def await_open_job(work: Path, asked: Asked, grace_s: float, *, wait: bool) -> Journal | None:
    """The volume's journal, when it holds a job that nobody works at any more; None when there is none.

    With ``wait`` a pilot that lives is outlived, and one that has not begun yet is waited for, but not after one of
    this pod has come and gone, whatever it has left. A stop ends that, but a pilot that is just ending has its share
    of the grace period first.
    """
    with suppress(OSError):  # as in `make_scratch`
        permit(str(work))
    if not wait:
        return _Watch(work).look(patient=False)
    from pilot.agent.notices import Notices  # noqa: PLC0415 - as above

    watch = _Watch(work)
    with Notices(work, NAME) as notices:
        while True:
            journal = watch.look()
            late = share("outputs", grace_s, asked.stop, asked.hurry)
            if journal is not None or watch.over or (late is not None and (not watch.met or late.expired())):
                return journal
            wakers = [one for one in (asked.stop, asked.hurry) if one.reason is None]
            notices.wait(wakers, *([late.left()] if late is not None else []))


@dataclass(slots=True)
class _Watch:
    """What was seen of a volume's pilots. ``met``: one was at work; ``over``: one of this pod has come and gone."""

    work: Path
    met: bool = False
    over: bool = False
    looked: bool = False

    def look(self, *, patient: bool = True) -> Journal | None:
        """The journal, if it holds an open job of nobody's."""
        owner = owner_of(self.work)
        came = owner is not None and owner.role == "pilot"
        if not came and not is_begun(self.work) and JobArea.left_behind(self.work) is None:
            return None
        try:
            journal = Journal.open(self.work, "recover")
        except Busy as busy:
            if not patient:
                log.info("a pilot is at work here: nothing to recover", why=str(busy))
            self.met = True
            return None
        story = story_of(journal)
        if story.open is not None or story.ended is not None:
            return journal
        journal.close()
        # after a look of ours the owner is us: who has the name of a pilot there has come since
        of_this_pod = (came or story.life) and _is_of_this_pod(story)
        self.over = self.met or (self.looked and came) or bool(of_this_pod)
        self.looked = True
        return None


def _is_of_this_pod(story: Story) -> bool:
    """Whether the last life was one of this pod's. One that has not told, for it wrote nothing, counts as such."""
    return story.place in ("", place())
