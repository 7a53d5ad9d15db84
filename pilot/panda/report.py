"""Report: the duty to tell a job's life, and to obey what the server says in return."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilot.panda.client import Acknowledged, PandaClient, first_words
from pilot.panda.duties import Backoff, Duty, Tell
from pilot.panda.fields import core
from pilot.panda.messages import Reported, Verdict
from pilot.values.deadline import Clock, Deadline
from pilot.values.errors import CredentialError, ServerError, ServerRefused
from pilot.values.events import events
from pilot.values.names import quoted
from pilot.values.stop import Reason, Stop

log = events(__name__)

_NO_META_DATA = "Failed to add meta_data"
_MOST_DOUBTS = 4
_SHOWN = 300

LOOKS = ("tail", "ls", "ps", "du")
"""The commands that ask to see something of the job (panda-protocol.md 5.4)."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A job under report, and what the server's commands can do to it.

    Args:
        fields: what every update carries.
        stop: pulled by ``tobekilled``, and by ``alreadydone`` before the final.
        drain: called by ``softkill``: finish this job, take no more.
        look: what ``tail X`` and its like show, as text that fits the field; "" asks for the debug tail.
        learn: told every secret that comes with an answer.
        debug: whether the job is in debug mode from its start.
    """

    fields: Mapping[str, Any]
    stop: Stop
    drain: Callable[[], None] = lambda: None
    look: Callable[[str], str] = lambda _command: ""
    learn: Callable[[object], None] = lambda _secret: None
    debug: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two updates, usually and in debug mode."""

    usual_s: float
    debug_s: float


@dataclass(slots=True)
class FinalReport:
    """The one final update, to be delivered before the deadline."""

    fields: dict[str, Any]
    deadline: Deadline
    reduced: bool = field(default=False)


class Report(Duty):
    """A job under report: phases in order, then heartbeats, then the final; nothing after it.

    Phases are sent in order while the server answers. When a call fails, only the newest of them is kept.
    """

    policy = Backoff(1, 60)
    rank = 0

    def __init__(self, clock: Clock, rng: random.Random, followed: Followed, pace: Pace) -> None:
        """Silent until the first phase; the pace is spread by 10 % either way."""
        super().__init__(clock, rng)
        self.due = math.inf
        self._followed = followed
        self._pace = pace
        self._phases: deque[Mapping[str, Any]] = deque()
        self._newest: Mapping[str, Any] = {}
        self._final: FinalReport | None = None
        self._debug = followed.debug
        self._look = ""
        self._looking = False
        self._failed_look = ""
        self._shed = False
        self._doubts = 0
        self._drained = False
        self.heard_at = clock.monotonic()

    def phase(self, fields: Mapping[str, Any]) -> None:
        """A new state, to be told now (or, while the server is away, with the next try)."""
        self._phases.append(fields)
        self.news += 1
        if self.tries == 0:
            self.now()

    def note(self, fields: Mapping[str, Any]) -> None:
        """What the next heartbeat shall say; nothing is sent now."""
        self._newest = fields

    def end(self, fields: Mapping[str, Any], deadline: Deadline) -> None:
        """The final, to be told now and until ``deadline``."""
        self._final = FinalReport({**self._followed.fields, **fields}, deadline)
        self.now()

    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """The oldest untold phase, or the final, or a heartbeat."""
        if self._phases or self._final is None:
            self._send_phase(client)
        else:
            self._send_final(client, self._final, tell)

    def _send_phase(self, client: PandaClient) -> None:
        self._newest = self._phases.popleft() if self._phases else self._newest
        update = {**self._followed.fields, **self._newest, "stdout": self._shown()}
        if self._shed:
            update, self._shed = core(update), False
        try:
            self._obey(client.update_job(update))
        except (ServerError, CredentialError) as error:
            while self._phases:  # one by one: main may add to them meanwhile
                self._newest = self._phases.popleft()
            if isinstance(error, ServerRefused):  # the next heartbeat may carry what is accepted
                log.error(f"update refused: {error}")
                self._beat()
            elif self._final is not None:
                self.now()
            else:
                self.again(error)

    def fault(self, error: BaseException, tell: Tell) -> None:
        """A fault of ours: tried again, after the second in a row without what is optional.

        A look that failed is told to who asked for it.
        """
        if self._looking:
            self._looking = False
            self._failed_look = f"{self._look or 'debug'}: not possible ({type(error).__name__})"
            self.now()
            return
        if self._final is None or self._phases:
            self._shed = self.faults > 0
            super().fault(error, tell)
            return
        self.faults += 1
        if self.faults > 1:
            self._final.fields, self._final.reduced = core(self._final.fields), True
        self._not_delivered(self._final, error, tell)

    def _shown(self) -> str | None:
        """The field stdout: what a command asked to see, or in debug mode the tail of the newest output."""
        if not self._look and not self._debug:
            return None
        shown, self._failed_look = self._failed_look, ""
        if not shown:
            self._looking = True
            shown = self._followed.look(self._look)
            self._looking = False
        return shown or "nothing to show"  # an empty field would leave the answer to an earlier command there

    def _beat(self, *, at_once: bool = False) -> None:
        self.tries = 0
        pace_s = self._pace.debug_s if self._debug else self._pace.usual_s
        at_once = at_once or bool(self._phases) or self._final is not None
        self.due = self.clock.monotonic() + (0.0 if at_once else pace_s * self.rng.uniform(0.9, 1.1))

    def _obey(self, answer: Acknowledged) -> None:
        """Do what the server says. A command that asks to see something is answered at once when it is new (B2)."""
        self.heard_at = self.clock.monotonic()
        commands = first_words(answer.command)
        for value in (answer.secrets or {}).values():
            self._followed.learn(value)
        self._stop_if_told(commands)
        if "softkill" in commands and not self._drained:
            self._drained = True
            log.info("the server wants no more jobs to be taken here")
            self._followed.drain()
        debug = "debug" in commands and "debugoff" not in commands
        look = next((word for word in commands if word.split()[0] in LOOKS), "")
        news = (look and look != self._look) or (debug and not self._debug)
        if (debug, look) != (self._debug, self._look):
            log.info("the server's command", debug=debug, look=quoted(look, _SHOWN) if look else None)
        self._debug, self._look = debug, look
        self._beat(at_once=bool(news))

    def _stop_if_told(self, commands: Sequence[str]) -> None:
        """A job that is to be killed; or of which the server has the end already, from whomever."""
        reasons = {"tobekilled": Reason.TOBEKILLED, "alreadydone": Reason.ALREADY_DONE}
        reason = next((why for word, why in reasons.items() if word in commands), None)
        if reason is not None and self._followed.stop.reason is None:
            log.warning("the server wants this job no more", command=reason)
            self._followed.stop.request(reason)

    def _send_final(self, client: PandaClient, final: FinalReport, tell: Tell) -> None:
        try:
            commands = first_words(client.update_job(final.fields).command)
        except ServerRefused as error:
            self._refused(final, error, tell)
        except (ServerError, CredentialError) as error:
            self._not_delivered(final, error, tell)
            if _NO_META_DATA in str(error):
                self._doubt_meta_data(final, client)
        else:
            self.done = True
            tell(_verdict(commands, client, int(final.fields["job_id"])))

    def _refused(self, final: FinalReport, error: ServerRefused, tell: Tell) -> None:
        """Once more with the fields that must arrive: an optional one may be what the server refuses."""
        if final.reduced:
            self.done = True
            tell(Reported(Verdict.REFUSED, str(error)))
            return
        log.error(f"final refused, sending its core: {error}")
        final.fields, final.reduced = core(final.fields), True
        self.now()

    def _not_delivered(self, final: FinalReport, error: BaseException, tell: Tell) -> None:
        if final.deadline.expired():
            self.done = True
            tell(Reported(Verdict.GAVE_UP, str(error)))
            return
        if "Database error" in str(error) and self.tries >= 3:  # three were chance, see corrections A1
            final.fields.pop("batch_id", None)
        self.again(error, most_s=max(0.2, final.deadline.left() / 4))

    def _doubt_meta_data(self, final: FinalReport, client: PandaClient) -> None:
        """So a server says when its database is away, which passes; or has no such job, which does not.

        Without them it says what it has to say of the job. A server that knows the job, and still takes no metadata
        after some tries, never will.
        """
        try:
            status, _ = client.job_status(int(final.fields["job_id"]))
        except (ServerError, CredentialError):
            return
        self._doubts += 1
        if status == "not found" or self._doubts >= _MOST_DOUBTS:
            log.warning("the final goes without its metadata: the server does not take them", status=status)
            final.fields.pop("meta_data", None)


def _verdict(commands: Sequence[str], client: PandaClient, job_id: int) -> Reported:
    """What an acknowledged final means (corrections A3, B1): a kill is not a refusal."""
    if "alreadydone" in commands:
        return Reported(Verdict.ALREADY_DONE)
    if "tobekilled" not in commands:
        return Reported(Verdict.STORED)
    try:
        status, _ = client.job_status(job_id)
    except (ServerError, CredentialError) as error:
        return Reported(Verdict.GONE, f"its status could not be asked: {error}")
    return Reported(Verdict.GONE, f"its status there is {status}")
