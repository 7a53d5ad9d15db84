"""The reporter: the one thread that talks to the PanDA server.

Main hands it duties and goes on; answers come back through the mailbox, kills through the job's `Stop`.
All waiting is in one place, on one condition, until the first duty is due: so a beat does not depend on
the work, and a stop can hurry everything.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pilot.panda.client import PandaClient, Question
from pilot.panda.duties import Acquire, Ask, Duty, NodeReport, WorkerStatus
from pilot.panda.grants import GrantClient
from pilot.panda.mailbox import Mailbox
from pilot.panda.messages import Documents, Fault, Granted, Known, Message, Withdrawn
from pilot.panda.report import Followed, Pace, Report
from pilot.processes.starting import start_thread
from pilot.values.deadline import REAL_CLOCK, Clock, Deadline
from pilot.values.errors import CredentialError
from pilot.values.events import events

log = events(__name__)

_MOST_FAULTS = 3
_LONGEST_PAUSE_S = 60.0
_RENEWED_S = 1.0  # between two looks for a new credential, while somebody waits who was refused
_LONGEST_WAIT_S = 86400.0  # a condition takes no wait of any length

_ASKING = (Acquire, Ask)
"""What main waits for, and can withdraw."""


class Reporter:
    """All traffic with one PanDA server, in a thread of its own."""

    def __init__(
        self,
        client: PandaClient,
        *,
        pace: Pace,
        clock: Clock = REAL_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        """Nothing is sent before `start`."""
        self.mailbox: Mailbox[Message] = Mailbox()
        self._client = client
        self._pace = pace
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._changed = threading.Condition()
        self._duties: list[Duty] = []
        self._report: Report | None = None
        self._news = 0
        self._withdrawing = False
        self._closing = False
        self._faults = 0  # in a row
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        """Start the thread. Raises SiteError where the system has none to give."""
        start_thread(self._thread)

    # --- what main asks for -------------------------------------------------------------------------

    def tell_worker(self, harvester_id: str, worker_id: int, node: str, status: str) -> None:
        """Tell Harvester's record of this worker that it ``started`` or ``finished``."""
        self._add(WorkerStatus(self._clock, self._rng, harvester_id, worker_id, node, status))

    def tell_node(self, node: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]]) -> None:
        """Tell what the node has: nothing depends on it, so it is tried a few times."""
        self._add(NodeReport(self._clock, self._rng, node, gpus))

    def fetch(self, queue_url: str, storages_url: str) -> None:
        """Fetch queue and storage data, "" for one that is at hand; `Documents` or `Broken` comes to the mailbox."""
        urls = (queue_url, storages_url)
        self._ask(lambda client: Documents(*(client.wire.document(url) if url else None for url in urls)))

    def acquire(self, question: Question, lost_s: float = 0, may: Callable[[], bool] = lambda: True) -> None:
        """Ask for a job until `withdraw`, or while ``may()``; `Acquired` or `Broken` comes to the mailbox.

        After an answer that was lost it is asked again no sooner than ``lost_s`` seconds later.
        """
        self._withdrawing = False
        self._add(Acquire(self._clock, self._rng, question, lost_s, may))

    def withdraw(self) -> None:
        """Ask no more. An answer in flight still comes, and `Withdrawn` behind it."""
        with self._changed:
            self._withdrawing = True
            self._changed.notify()

    @property
    def unanswered(self) -> str | None:
        """Why what was asked last got no answer; None when the server did answer, or was not asked."""
        return next((duty.failure for duty in self._duties if isinstance(duty, _ASKING)), None)

    def ask_status(self, job_id: int) -> None:
        """Ask what the server knows of a job; `Known` or `Broken` comes to the mailbox."""
        self._ask(lambda client: Known(*client.job_status(job_id)))

    def ask_proxy(self, role: str) -> None:
        """Ask for a payload's proxy; `Granted` or `Broken` comes to the mailbox."""
        self._ask(lambda client: Granted(GrantClient(client.wire).proxy(role)))

    def keep(self, make: Callable[[Clock, random.Random], Duty]) -> None:
        """Take over a duty beside the jobs, made with the reporter's clock and randomness."""
        self._add(make(self._clock, self._rng))

    def follow(self, followed: Followed) -> None:
        """Report this job from now on; nothing is sent before its first phase, or its final."""
        self._report = Report(self._clock, self._rng, followed, self._pace)
        self._add(self._report)

    def phase(self, fields: Mapping[str, Any]) -> None:
        """The followed job has a new state."""
        with self._changed:
            if self._report is not None:
                self._report.phase(fields)
            self._changed.notify()

    def note(self, fields: Mapping[str, Any]) -> None:
        """What the next heartbeat of the followed job shall say."""
        with self._changed:
            if self._report is not None:
                self._report.note(fields)

    @property
    def silent_s(self) -> float:
        """Seconds since the server took an update of the followed job."""
        with self._changed:
            return 0.0 if self._report is None else self._clock.monotonic() - self._report.heard_at

    def final(self, fields: Mapping[str, Any], deadline: Deadline) -> None:
        """The followed job has ended; `Reported` comes to the mailbox, by ``deadline``."""
        with self._changed:
            if self._report is not None:
                self._report.end(fields, deadline)
            self._changed.notify()
        self._awake.set()

    def hurry(self) -> None:
        """A stop cannot wait: end the call in flight, and try everything again now."""
        with self._changed:
            for duty in self._duties:
                duty.hurry()
            self._changed.notify()
        self._awake.set()
        self._client.wire.interrupt()

    def finish(self, deadline: Deadline) -> None:
        """Send what is left, then end; what hangs past ``deadline`` is abandoned with its socket."""
        with self._changed:
            self._closing = True
            self._withdrawing = True
            self._changed.notify()
        self._awake.set()
        self._thread.join(deadline.timeout())
        if self._thread.is_alive():
            self._client.wire.interrupt()
            self._thread.join(0.2)

    # --- the thread ---------------------------------------------------------------------------------

    def _ask(self, call: Callable[[PandaClient], Message]) -> None:
        self._withdrawing = False
        self._add(Ask(self._clock, self._rng, call))

    def _add(self, duty: Duty) -> None:
        with self._changed:
            self._duties.append(duty)
            self._changed.notify()

    def _run(self) -> None:
        """The thread's life: what is to be told is kept outside of it, so that it can begin anew after any fault."""
        while True:
            try:
                self._work()
                break
            except SystemExit:  # the thread is to end, as a test's clock wants it
                break
            except BaseException as error:  # noqa: BLE001 - the thread's top: heartbeats and final go on, whatever it was
                self._tell_fault(error)
            if self._closing and self._faults > _MOST_FAULTS:
                break
            self._pause()
        self._client.wire.close()

    def _work(self) -> None:
        while (duty := self._next()) is not None:
            answers, duty.waits_after = self._client.wire.answers, None
            try:
                duty.attempt(self._client, self.mailbox.put)
            except Exception as error:  # noqa: BLE001 - as above: one duty's fault is not another's
                self._tell_fault(error)
                duty.fault(error, self.mailbox.put)
            else:
                self._faults = duty.faults = 0
                if duty.waits_after is None and self._client.wire.answers > answers:
                    self._heard(duty)
            self._finished(duty)

    def _heard(self, by: Duty) -> None:
        """The server answers: nobody needs to wait for that."""
        with self._changed:
            for duty in self._duties:
                if duty is not by:
                    duty.heard()

    def _tell_fault(self, error: BaseException) -> None:
        """Log it, and leave word for main."""
        self._faults += 1
        with suppress(Exception):  # memory may be short; that is no reason to stop
            log.crash("the reporter failed, and goes on", error)
            self.mailbox.put(Fault(f"{type(error).__name__}: {error}"))

    def _pause(self) -> None:
        """Before it begins anew; not on the clock, which may be what fails."""
        self._awake.wait(min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(self._faults, 10)))
        self._awake.clear()

    def _next(self) -> Duty | None:
        """Wait for the duty that is due first; None when the reporter shall end."""
        with self._changed:
            while True:
                self._drop_withdrawn()
                now = self._clock.monotonic()
                open_duties = [duty for duty in self._duties if duty.last_words or not self._closing]
                longest_s = self._look_for_credentials(open_duties)
                due = [duty for duty in open_duties if duty.due <= now]
                if due:
                    chosen = min(due, key=lambda duty: (duty.rank, duty.due))
                    self._news = chosen.news
                    return chosen
                if self._closing and not open_duties:
                    return None
                first = min((duty.due for duty in open_duties), default=math.inf)
                self._clock.wait(self._changed, None if math.isinf(first) else min(first - now, longest_s))

    def _look_for_credentials(self, duties: Sequence[Duty]) -> float:
        """Hurry who was refused, if there is a new credential; how long to wait until the next look, in seconds."""
        refused = [duty for duty in duties if isinstance(duty.waits_after, CredentialError)]
        if not refused:
            return _LONGEST_WAIT_S
        if self._client.wire.renewed():
            for duty in refused:
                duty.renewed()
        return _RENEWED_S

    def _finished(self, duty: Duty) -> None:
        with self._changed:
            if duty.news != self._news:
                duty.due = self._clock.monotonic()
            if duty.done:
                self._duties.remove(duty)
                if duty is self._report:
                    self._report = None

    def _drop_withdrawn(self) -> None:
        """Called between two attempts, so no acquire is in flight."""
        if self._withdrawing:
            self._withdrawing = False
            lost = sum(duty.lost for duty in self._duties if isinstance(duty, Acquire))
            self._duties = [duty for duty in self._duties if not isinstance(duty, _ASKING)]
            self.mailbox.put(Withdrawn(lost))
