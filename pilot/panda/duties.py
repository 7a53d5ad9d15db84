"""The reporter's duties: each is one thing to be told or asked, with its own retry policy beside its call.

A duty makes one call per `attempt` and never waits; the reporter waits, until the first duty is due.
Retries are spread with full jitter: the n-th waits a random part of ``base * 2^n``, capped.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pilot.panda.client import PandaClient, Question
from pilot.panda.messages import Acquired, Broken, Message
from pilot.values.deadline import Clock
from pilot.values.errors import BadJob, CredentialError, PilotError, ServerError, ServerRefused
from pilot.values.events import events

log = events(__name__)
Tell = Callable[[Message], None]

_FAULT_S = 1.0  # on top of the policy's delay: a fault of ours costs no server, but a core
_MOST_FAULTS = 3


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: between 0 and ``base_s * 2^tries``, at most ``cap_s`` seconds."""

    base_s: float
    cap_s: float

    def delay(self, tries: int, rng: random.Random) -> float:
        """Seconds until the next try after ``tries`` failed ones."""
        return rng.uniform(0, min(self.cap_s, self.base_s * 2 ** min(tries, 30)))


class Duty(ABC):
    """Something to be told or asked. ``due`` is on the monotonic clock, in seconds.

    Of several that are due the one with the lowest ``rank`` comes first. ``last_words`` are waited for when
    the reporter ends.
    """

    policy = Backoff(1, 60)
    rank: ClassVar[int] = 5
    last_words: ClassVar[bool] = False

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        """Due at once."""
        self.clock = clock
        self.rng = rng
        self.due = clock.monotonic()
        self.tries = 0
        self.news = 0  # counts what main has asked for: an attempt that overlaps with it is followed by another
        self.done = False
        self.failure: str | None = None
        self.waits_after: BaseException | None = None  # what the last attempt has failed for, if it will be made again
        self._again_at = -math.inf
        self._hurried = False
        self.faults = 0

    @abstractmethod
    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """Make one call and decide what follows; does not raise ServerError."""

    def fault(self, error: BaseException, tell: Tell) -> None:  # noqa: ARG002 - for duties that main waits for
        """A fault of ours has ended the attempt: it is made again, and not at once."""
        self.faults += 1
        self.again(error)
        self.due += _FAULT_S

    def again(self, error: BaseException, *, most_s: float = 3600) -> None:
        """Come back after the policy's delay, at most ``most_s``."""
        self._hurried = self._hurried and self.tries > 0
        self.due = self._again_at = self.clock.monotonic() + min(most_s, self.policy.delay(self.tries, self.rng))
        self.tries += 1
        self.failure = str(error)
        self.waits_after = error
        log.warning(str(error), tries=self.tries, next_s=round(self.due - self.clock.monotonic(), 1))

    def heard(self) -> None:
        """The server has answered somebody: a pause ends, once in a row of failures. Others than of `again` stay."""
        if self.waits_after is not None and self.due == self._again_at and not self._hurried:
            self._hurried = True
            self.due = min(self.due, self.clock.monotonic())

    def renewed(self) -> None:
        """A credential was replaced: who was refused for it comes again now."""
        if isinstance(self.waits_after, CredentialError):
            self.waits_after = None
            self.due = min(self.due, self.clock.monotonic())

    def now(self) -> None:
        """Be due now, also if an attempt is under way that does not know of it yet."""
        self.news += 1
        self.due = self.clock.monotonic()

    def hurry(self) -> None:
        """Be due now, if there is anything to do at all."""
        if not math.isinf(self.due):
            self.now()


class WorkerStatus(Duty):
    """Tell that the worker started or finished: 3 tries within seconds, then it is let go."""

    policy = Backoff(0.5, 2)
    rank = 1
    last_words = True

    def __init__(
        self, clock: Clock, rng: random.Random, harvester_id: str, worker_id: int, node: str, status: str
    ) -> None:
        """``status`` is ``started`` or ``finished``."""
        super().__init__(clock, rng)
        self._call = (harvester_id, worker_id, status, node)

    def attempt(self, client: PandaClient, tell: Tell) -> None:  # noqa: ARG002 - main does not wait for this
        """Nothing depends on the answer; it only helps those who watch workers."""
        try:
            client.update_worker_status(*self._call)
            self.done = True
        except (ServerError, CredentialError) as error:
            self.again(error)
            self.done = self.tries >= 3


class NodeReport(Duty):
    """Tell what the node has, and what GPUs: when nothing else is to be done, one call at a time, 3 tries each."""

    policy = Backoff(5, 60)
    rank = 6

    def __init__(
        self, clock: Clock, rng: random.Random, node: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]]
    ) -> None:
        """``node`` is the body of update_worker_node, ``gpus`` those of update_worker_node_gpu."""
        super().__init__(clock, rng)
        self._untold = [
            (PandaClient.update_worker_node, node),
            *((PandaClient.update_worker_node_gpu, one) for one in gpus),
        ]

    def attempt(self, client: PandaClient, tell: Tell) -> None:  # noqa: ARG002 - main does not wait for this
        """The next call. What the server refuses, it refuses again."""
        call, body = self._untold[0]
        try:
            call(client, body)
        except ServerRefused as error:
            log.warning("the server takes no report of the node", why=str(error))
        except (ServerError, CredentialError) as error:
            self.again(error)
            if self.tries < 3:
                return
        del self._untold[0]
        self.tries = 0
        self.done = not self._untold


class Ask(Duty):
    """Ask one thing that main waits for: until there is an answer, or main withdraws."""

    policy = Backoff(1, 30)
    rank = 2

    def __init__(self, clock: Clock, rng: random.Random, call: Callable[[PandaClient], Message]) -> None:
        """``call`` makes the call (or calls), and a message of the answer."""
        super().__init__(clock, rng)
        self._call = call

    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """The message, or `Broken` for what waiting does not heal."""
        try:
            message = self._call(client)
        except (ServerRefused, CredentialError) as error:
            self.done = True
            tell(Broken(error))
        except ServerError as error:
            self.again(error)
        else:
            self.done = True
            tell(message)

    def fault(self, error: BaseException, tell: Tell) -> None:
        """Main waits: after the third it hears that there will be no answer."""
        super().fault(error, tell)
        _give_up(self, error, tell)


class Acquire(Duty):
    """Ask for a job until there is one or main withdraws: an empty answer is never final (LB "acquire_jobs").

    An answer that was lost may have held a job, and nothing in the API tells: that is counted, and the next
    question comes later than usual (faults.md row 17).
    """

    policy = Backoff(2, 60)
    rank = 3

    def __init__(
        self, clock: Clock, rng: random.Random, question: Question, lost_s: float, may: Callable[[], bool]
    ) -> None:
        """Ask ``question``, word for word, each time, while ``may()``; ``lost_s`` is the pause after a lost answer."""
        super().__init__(clock, rng)
        self._question = question
        self._lost_s = lost_s
        self._may = may
        self.lost = 0

    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """One acquire_jobs."""
        if not self._may():
            self.due = math.inf
            return
        try:
            job = client.acquire_job(self._question)
        except BadJob as error:
            self.done = True
            tell(Acquired(error))
        except CredentialError as error:
            self.done = True
            tell(Broken(error))
        except ServerError as error:
            self.again(error)
            if error.maybe_done:
                self._may_have_held()
        else:
            self.failure = None
            if job is None:
                self.due = self.clock.monotonic() + 0.5 + self.policy.delay(self.tries, self.rng)
                self.tries += 1
                log.debug("no job", next_s=self.due - self.clock.monotonic())
            else:
                self.done = True
                tell(Acquired(job))

    def _may_have_held(self) -> None:
        self.lost += 1
        self.due = max(self.due, self.clock.monotonic() + self._lost_s)
        log.warning("an answer was lost that may have held a job", next_s=self.due - self.clock.monotonic())

    def fault(self, error: BaseException, tell: Tell) -> None:
        """As for a lost answer: it may have held a job."""
        super().fault(error, tell)
        self._may_have_held()
        _give_up(self, error, tell)


def _give_up(duty: Duty, error: BaseException, tell: Tell) -> None:
    """What main waits for is told as broken after the third fault: its waiting would not heal it."""
    if duty.faults >= _MOST_FAULTS:
        duty.done = True
        tell(Broken(PilotError(f"the reporter failed: {type(error).__name__}: {error}")))
