"""The reporter's duties: each is one thing to be told or asked, with its own retry policy beside its call.

A duty makes one call per `attempt` and never waits; the reporter waits, until the first duty is due.
Retries are spread with full jitter: the n-th waits a random part of ``base * 2^n``, capped.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilot.panda.client import PandaClient, Question, first_words
from pilot.panda.fields import core
from pilot.panda.messages import Acquired, Broken, Documents, Message, Reported, Verdict
from pilot.values.deadline import Clock, Deadline
from pilot.values.errors import BadJob, CredentialError, ServerError, ServerRefused
from pilot.values.events import events
from pilot.values.stop import Reason, Stop

log = events(__name__)
Tell = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: between 0 and ``base_s * 2^tries``, at most ``cap_s`` seconds."""

    base_s: float
    cap_s: float

    def delay(self, tries: int, rng: random.Random) -> float:
        """Seconds until the next try after ``tries`` failed ones."""
        return rng.uniform(0, min(self.cap_s, self.base_s * 2 ** min(tries, 30)))


class Duty(ABC):
    """Something to be told or asked. ``due`` is on the monotonic clock, in seconds."""

    policy = Backoff(1, 60)

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        """Due at once."""
        self.clock = clock
        self.rng = rng
        self.due = clock.monotonic()
        self.tries = 0
        self.news = 0  # counts what main has asked for: an attempt that overlaps with it is followed by another
        self.done = False
        self.failure: str | None = None

    @abstractmethod
    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """Make one call and decide what follows; does not raise ServerError."""

    def again(self, error: Exception, *, most_s: float = 3600) -> None:
        """Come back after the policy's delay, at most ``most_s``."""
        self.due = self.clock.monotonic() + min(most_s, self.policy.delay(self.tries, self.rng))
        self.tries += 1
        self.failure = str(error)
        log.warning(str(error), tries=self.tries, next_s=round(self.due - self.clock.monotonic(), 1))

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


class FetchDocuments(Duty):
    """Fetch queue and storage data: until it works or main gives up."""

    policy = Backoff(1, 30)

    def __init__(self, clock: Clock, rng: random.Random, queue_url: str, storages_url: str) -> None:
        """An empty URL is not fetched: main has that document from a file."""
        super().__init__(clock, rng)
        self._urls = (queue_url, storages_url)

    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """Both documents, or neither."""
        try:
            queue, storages = (client.document(url) if url else None for url in self._urls)
        except (ServerRefused, CredentialError) as error:
            self.done = True
            tell(Broken(error))
        except ServerError as error:
            self.again(error)
        else:
            self.done = True
            tell(Documents(queue, storages))


class Acquire(Duty):
    """Ask for a job until there is one or main withdraws: an empty answer is never final (LB "acquire_jobs")."""

    policy = Backoff(2, 60)

    def __init__(self, clock: Clock, rng: random.Random, question: Question) -> None:
        """Ask ``question``, word for word, each time."""
        super().__init__(clock, rng)
        self._question = question

    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """One acquire_jobs."""
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
        else:
            self.failure = None
            if job is None:
                self.due = self.clock.monotonic() + 0.5 + self.policy.delay(self.tries, self.rng)
                self.tries += 1
                log.debug("no job", next_s=self.due - self.clock.monotonic())
            else:
                self.done = True
                tell(Acquired(job))


@dataclass(slots=True)
class Identity:
    """The fields that every update of a job carries, and the stop that a command of the server pulls."""

    fields: Mapping[str, Any]
    stop: Stop


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

    def __init__(self, clock: Clock, rng: random.Random, identity: Identity, heartbeat_s: float) -> None:
        """Silent until the first phase; ``heartbeat_s`` is the time between updates, spread by 10 % either way."""
        super().__init__(clock, rng)
        self.due = math.inf
        self._identity = identity
        self._heartbeat_s = heartbeat_s
        self._phases: deque[Mapping[str, Any]] = deque()
        self._newest: Mapping[str, Any] = {}
        self._final: FinalReport | None = None

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
        self._final = FinalReport({**self._identity.fields, **fields}, deadline)
        self.now()

    def attempt(self, client: PandaClient, tell: Tell) -> None:
        """The oldest untold phase, or the final, or a heartbeat."""
        if self._phases or self._final is None:
            self._send_phase(client)
        else:
            self._send_final(client, self._final, tell)

    def _send_phase(self, client: PandaClient) -> None:
        self._newest = self._phases.popleft() if self._phases else self._newest
        try:
            self._obey(client.update_job({**self._identity.fields, **self._newest}))
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
        else:
            self._beat()

    def _beat(self) -> None:
        self.tries = 0
        wait = 0.0 if self._phases or self._final else self._heartbeat_s * self.rng.uniform(0.9, 1.1)
        self.due = self.clock.monotonic() + wait

    def _obey(self, commands: str) -> None:
        for command in first_words(commands):
            if command == "tobekilled":
                log.warning("the server wants this job killed")
                self._identity.stop.request(Reason.TOBEKILLED)
            elif command != "alreadydone":
                log.info("command of the server is not known", command=command)

    def _send_final(self, client: PandaClient, final: FinalReport, tell: Tell) -> None:
        try:
            commands = first_words(client.update_job(final.fields))
        except ServerRefused as error:
            self._refused(final, error, tell)
        except (ServerError, CredentialError) as error:
            self._not_delivered(final, error, tell)
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

    def _not_delivered(self, final: FinalReport, error: Exception, tell: Tell) -> None:
        if final.deadline.expired():
            self.done = True
            tell(Reported(Verdict.GAVE_UP, str(error)))
            return
        if "Failed to add meta_data" in str(error):
            final.fields.pop("meta_data", None)
        if "Database error" in str(error) and self.tries >= 3:
            final.fields.pop("batch_id", None)
        self.again(error, most_s=max(0.2, final.deadline.left() / 4))


def _verdict(commands: Any, client: PandaClient, job_id: int) -> Reported:
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
