"""Seeded schedules of faults over the runner and the reporter; each is judged by the checker, and by what it knows.

A schedule is a seed. From it: a job, a fault script for the embedded server, and the lives of a pilot, each with what
happens at which of its points. A point is a journal record, a request or a transfer, before it and after it. Real are
the loop of the agent, runner, recovery, reporter, journal, payload process, and the embedded server's application;
injected are clock, transport and lanes. The reporter runs only while main waits, and time passes only then: a seed
gives the same schedule again, but for the moment at which a real payload ends.

`python -m tests.fault.schedules --schedules N --seed S` prints each violation with its seed, and exits with 1 if there
was one. `--broken NAME` puts a runner in that breaks a promise, and exits with 1 if it is not caught.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlencode, urlsplit

from pilot.agent import agent
from pilot.embedded import sitedata
from pilot.embedded.adder import Limits
from pilot.embedded.app import application
from pilot.embedded.faults import Kind as Fault
from pilot.embedded.faults import Rule
from pilot.embedded.server import EmbeddedServer
from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Answer
from pilot.panda.client import PandaClient
from pilot.panda.decode import decode_job
from pilot.panda.mailbox import Mailbox
from pilot.panda.messages import Known
from pilot.panda.report import Pace
from pilot.panda.reporter import Reporter
from pilot.panda.wire import Wire
from pilot.payload.tree import become_subreaper
from pilot.resources.probe import probe
from pilot.runner.journal import Journal, Kind, read
from pilot.runner.lease import OURS
from pilot.runner.past import tell
from pilot.runner.pod import Pod
from pilot.runner.runner import run_job
from pilot.runner.watchdog import Watchdog
from pilot.staging.obedience import Obedience
from pilot.staging.plan import Trust, make_plan
from pilot.staging.transfer import Moved
from pilot.values.deadline import Deadline
from pilot.values.errors import (
    STAGE_KINDS,
    CredentialError,
    InternalError,
    ServerError,
    ServerUnavailable,
    SiteError,
    TransferFailed,
)
from pilot.values.events import Redactor
from pilot.values.names import Checksum
from pilot.values.settings import Settings
from pilot.values.site import Site, parse_queue, parse_storages
from pilot.values.stop import Drain, Reason, Stop
from tests import history
from tests.checker import Violation, examine
from tests.facts import Facts
from tests.fault.clock import JumpingClock

BASE = "http://127.0.0.1:25080"
_QUEUE = sitedata.queue_data(sitedata.QUEUE, 0)
_STORAGES = sitedata.storage_data(f"{BASE}/")
_SITE = Site(parse_queue(sitedata.QUEUE, _QUEUE), parse_storages(_STORAGES))
_FAST = Path("/dev/shm")  # a disk that syncs for nothing
_CALM_LIVES = 4
_REFUSED = '{"success": false, "message": "Type error: x", "data": null}'
_TIMED_OUT = '{"success": true, "message": "Timed out", "data": {"StatusCode": 10}}'


class Crash(BaseException):
    """The pilot's process ends here and now: nothing of ours may catch it."""


class Hang(BaseException):
    """Main waits for something that never comes."""


# --- the script of a schedule -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Move:
    """What happens to one transfer: it takes ``seconds``, and fails of ``error`` ("" for not)."""

    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of the pilot: what happens at which point, at its n-th transfer, and how long its payload runs.

    A point is a number, or a name: that of a record, a call, or the state of a final, with ``<`` before it and ``>``
    after it, and a number where it is not the first of this name (``stored>``, ``failed<2``).

    It begins ``after_s`` seconds after the end of the one before.

    Events: ``crash`` and ``tear`` (the record that is just written is torn), ``stop`` and ``hurry``, ``taken`` (the
    server gives the attempt away), ``kill``, ``drain``, and ``away S``: the server cannot be reached for S seconds.
    """

    events: Mapping[int | str, str] = field(default_factory=dict)
    moves: Mapping[int, Move] = field(default_factory=dict)
    payload_s: float = 0.0
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """A whole schedule.

    ``watching``: a server that cannot be reached ends silent jobs (a partition); else it is down, and does not.
    ``prompt``: it judges a final before the next request. ``rival``: another pilot takes what is given away.
    ``lost``: the volume is lost with the last life. ``jobs_left``: attempts that the server allows.
    """

    inputs: int = 0
    outputs: int = 1
    exit_code: int = 0
    missing: bool = False
    walltime_s: int | None = None
    attempts: int = 0
    lives: tuple[Life, ...] = (Life(),)
    rules: tuple[Rule, ...] = ()
    watching: bool = True
    prompt: bool = True
    rival: bool = True
    lost: bool = False

    @property
    def good(self) -> bool:
        """Whether the payload does what it shall."""
        return self.exit_code == 0 and not (self.missing and self.outputs)


def script_of(seed: int) -> Script:
    """The schedule of a seed: every other one has a theme."""
    rng = random.Random(seed)
    script = _any(rng)
    theme = rng.choice((None, None, None, _final_lost, _late_crash, _silence))
    return theme(rng, script) if theme else script


def _any(rng: random.Random) -> Script:
    return Script(
        inputs=rng.randrange(3),
        outputs=rng.choice((0, 1, 1, 2)),
        exit_code=rng.choice((0, 0, 0, 0, 0, 0, 3, -9)),
        missing=rng.random() < 0.05,
        walltime_s=600 if rng.random() < 0.1 else None,
        attempts=rng.choice((0, 2, 2, 3)),
        lives=tuple(_life(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))),
        rules=tuple(_rule(rng) for _ in range(rng.choice((0, 0, 1, 2, 4)))),
        watching=rng.random() < 0.7,
        prompt=rng.random() < 0.5,
        rival=rng.random() < 0.7,
        lost=rng.random() < 0.05,
    )


def _life(rng: random.Random) -> Life:
    events: dict[int | str, str] = {}
    for event, chance in (("crash", 0.4), ("tear", 0.15), ("taken", 0.15), ("kill", 0.05), ("drain", 0.05)):
        if rng.random() < chance:
            events[_point(rng)] = event
    if rng.random() < 0.4:
        events[_point(rng)] = f"away {rng.choice((5, 60, 600, 3000, 7000, 9000, 3 * 3600, 5 * 3600))}"
    if rng.random() < 0.2:
        at = _point(rng)
        events[at] = "stop"
        if isinstance(at, int) and rng.random() < 0.5:
            events[at + rng.randrange(1, 8)] = "hurry"
    moves = {
        number: Move(rng.choice((0, 0, 20, 400, 4000)), rng.choice(("", "", *STAGE_KINDS)))
        for number in range(1, 9)
        if rng.random() < 0.12
    }
    return Life(events, moves, rng.choice((0, 10, 400, 2000, 8000, 4 * 3600)), rng.choice((0, 0, 60, 3000, 8000)))


def _final_lost(rng: random.Random, script: Script) -> Script:
    """The final does not arrive, and the pilot dies; the cause of a failure is known to it alone."""
    do = rng.choice((Fault.DROP_BEFORE, Fault.STATUS, Fault.NO_DATABASE))
    rules = tuple(Rule("/api/v1/pilot/update_job", do, count=5, state=state) for state in ("finished", "failed"))
    first = replace(_life(rng), events={f"{state}<{rng.choice('234')}": "crash" for state in ("finished", "failed")})
    if rng.random() < 0.5:
        first = replace(first, moves={rng.randrange(1, 5): Move(error=rng.choice((*STAGE_KINDS,)))})
    return replace(script, rules=rules, lives=(first, *script.lives))


def _late_crash(rng: random.Random, script: Script) -> Script:
    """The pilot dies between the payload's end and the final."""
    point = rng.choice(("exited<", "exited>", "storing>", "out<", "out|", "out>", "stored>", "stored>2", "final<"))
    first = replace(_life(rng), events={point: "crash"})
    return replace(script, exit_code=rng.choice((0, 0, 3)), lives=(first, *script.lives))


def _silence(rng: random.Random, script: Script) -> Script:
    """The server hears nothing for longer than its limit: nobody reaches it, or nobody lives."""
    away = f"away {rng.choice((6000, 9000, 3 * 3600, 5 * 3600))}"
    if rng.random() < 0.5:
        first = replace(_life(rng), events={"running>": away}, payload_s=rng.choice((7000, 8000, 9000, 4 * 3600)))
        return replace(script, lives=(first, *script.lives[1:]))
    first = replace(_life(rng), events={rng.choice(("started>", "exited>", "out|")): "crash"}, moves={})
    second = replace(_life(rng), after_s=rng.choice((7000, 8000, 9000)))
    return replace(script, lives=(first, second, *script.lives[2:]))


def _point(rng: random.Random) -> int | str:
    """Any point; as often one of those at which much is at stake."""
    if rng.random() < 0.5:
        return rng.randrange(1, 60)
    name = rng.choice(_NAMES)
    return name + rng.choice(("", "2", "3")) if name.startswith(("finished", "failed", "stored")) else name


_NAMES = (
    *("taken>", "started>", "exited<", "exited>", "storing>", "stored<", "stored>", "final<", "final>", "ended<"),
    *("finished<", "finished<", "finished>", "failed<", "failed<", "failed>", "out|", "get_job_status>"),
)


def _rule(rng: random.Random) -> Rule:
    match = rng.choice(("acquire_jobs", "get_job_status", "update_job", "update_job", "update_job"))
    state = rng.choice((None, "running", "finished", "failed")) if match == "update_job" else None
    nth = None if state in ("finished", "failed") else rng.randrange(1, 10)
    do, status, body = rng.choice(
        (
            (Fault.DROP_BEFORE, 500, ""),
            (Fault.DROP_AFTER, 500, ""),
            (Fault.DROP_AFTER, 500, ""),
            (Fault.STATUS, 500, "Internal error"),
            (Fault.STATUS, 502, "Bad gateway"),
            (Fault.STATUS, 429, "slow down"),
            (Fault.STATUS, 200, _TIMED_OUT),
            (Fault.STATUS, 200, _REFUSED),
            (Fault.STATUS, 401, "no token"),
            (Fault.GARBAGE, 500, ""),
            (Fault.NO_DATABASE, 500, ""),
        )
    )
    return Rule(f"/api/v1/pilot/{match}", do, nth, rng.choice((1, 1, 2, 5)), state, status=status, body=body)


# --- what is injected -------------------------------------------------------------------------------


class Turns(JumpingClock):
    """A clock on which the reporter runs only when main lets it, until a moment or an event: then main goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self._thread: threading.Thread | None = None
        self._condition: threading.Condition | None = None
        self._until: float | None = None
        self._enough: Callable[[], bool] = lambda: False
        self._ended = False
        self._back = threading.Event()

    def born(self, reporter: Reporter) -> None:
        """Start a reporter; it waits for its turn."""
        self._begin()
        reporter.start()
        self._back.wait()

    def let(self, until: float, enough: Callable[[], bool]) -> None:
        """The reporter's turn: it ends at the moment, or when it has nothing due and ``enough()``."""
        if self._condition is None or self._thread is None or not self._thread.is_alive():
            return
        self._back.clear()
        with self._condition:
            self._until, self._enough = until, enough
            self._condition.notify_all()
        while not self._back.wait(0.2) and self._thread.is_alive():
            pass

    def skip(self, seconds: float) -> None:
        """Time in which no pilot lives."""
        self._now += seconds

    def end(self) -> None:
        """The reporter is no more."""
        if self._condition is not None and self._thread is not None:
            with self._condition:
                self._ended = True
                self._condition.notify_all()
            self._thread.join()

    @property
    def is_reporter(self) -> bool:
        """Whether the caller is the reporter."""
        return threading.current_thread() is self._thread

    def leave(self) -> None:
        """The reporter ends by itself: main goes on."""
        self._until = None
        self._back.set()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Called by the reporter when nothing is due: jump to what comes next, or give the turn back."""
        if self._thread is None:
            self._thread, self._condition = threading.current_thread(), condition
            self._back.set()
        elif self._until is not None and self._jumped(math.inf if seconds is None else self._now + seconds):
            return
        else:
            self.leave()
        while self._until is None and not self._ended:
            condition.wait()
        if self._ended:
            raise SystemExit

    def _jumped(self, due: float) -> bool:
        """Whether time has passed to something that comes in this turn."""
        if self._until is None or self._enough():
            return False
        plan = self._plans[0][0] if self._plans else math.inf
        moment = min(due, plan)
        if moment > self._until or math.isinf(moment):
            self._now = self._now if math.isinf(self._until) else max(self._now, self._until)
            return False
        self._now = max(self._now, moment)
        if plan <= due:
            self._plans.pop(0)[1]()
        return True


class TurnedMailbox(Mailbox):
    """Gives the reporter its turn while main waits. A limit on the real clock is one of injected seconds."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def get(self, deadline: Deadline, *wakers: Any) -> Any:
        """The next message; None at the deadline or for a waker."""
        until = self._world.clock.monotonic() + deadline.left()
        if not self._messages and not any(map(_asked, wakers)):
            self._world.let(until, lambda: bool(self._messages) or any(map(_asked, wakers)))
        if math.isinf(until) and not self._messages and not any(map(_asked, wakers)):
            raise Hang
        return super().get(Deadline.after(0))


def _asked(waker: Stop | Drain) -> bool:
    return waker.requested if isinstance(waker, Drain) else waker.reason is not None


class TurnedJournal(Journal):
    """A journal whose process can end before a record, in the middle of it, or after it."""

    world: World

    def _append(self, kind: Kind, facts: Mapping[str, object]) -> None:
        if kind == Kind.STOP:  # written from within a point
            super()._append(kind, facts)
            return
        self.world.point(f"{kind}<")
        size = self._size
        super()._append(kind, facts)
        self.world.point(f"{kind}>", lambda: os.ftruncate(self._fd, (size + self._size) // 2))
        if kind == Kind.TAKEN:
            self.world.taken.add(facts["job"])
        if kind == Kind.STARTED:
            self.world.pass_time(self.world.life.payload_s)


class MemoryTransport:
    """The embedded server's application, called in this process (the interface of `pilot.net.transport.Transport`)."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        **_more: Any,
    ) -> Answer:
        world, name = self._world, url.rpartition("/")[2]
        point = _state(body) or name
        world.asks(name)
        world.point(f"{point}<")
        if world.is_away():
            raise ServerUnavailable(f"{method} {url}: connection refused")
        answer = world.http(method, url, body, query)
        world.point(f"{point}>")
        if answer is None or world.is_away():
            raise ServerUnavailable(f"{method} {url}: no answer", maybe_done=True)
        world.heard(name, body, query, answer)
        return answer

    def interrupt(self) -> None:
        """No call is in flight while main runs."""

    def close(self) -> None:
        """There is no connection."""


def _state(body: bytes | None) -> str:
    """The state that an update tells."""
    return str(json.loads(body).get("job_status", "")) if body else ""


class MemoryLanes:
    """Moves files to and from the embedded server's store (the interface of `pilot.staging.lanes.Lanes`)."""

    def __init__(self, world: World) -> None:
        self._world = world

    def move(self, transfer: Any, _deadline: Any, stop: Stop, _progress: Any = None, mercy: Any = None) -> Moved:
        world, obedience = self._world, Obedience(stop, mercy)
        fault = world.next_move()
        world.point(f"{transfer.direction}<")
        obedience.check()
        if transfer.direction == "out":
            world.stores(transfer)
        content = world.path(transfer.source).read_bytes()
        world.point(f"{transfer.direction}|")
        world.pass_time(fault.seconds)
        obedience.check()
        if fault.error:
            raise STAGE_KINDS.get(fault.error, TransferFailed)(f"{transfer.name}: a fault", transfer.direction)
        self._arrive(transfer.destination, content)
        world.met[f"{'log' if transfer.name.endswith('.tgz') else 'file'} moved {transfer.direction}"] += 1
        world.point(f"{transfer.direction}>")
        return Moved(transfer, len(content), Checksum("adler32", f"{zlib.adler32(content):08x}"))

    def _arrive(self, url: str, content: bytes) -> None:
        self._world.put(url, content)

    def warm(self, _schemes: Any = ()) -> None:
        """There is no process."""

    def pids(self) -> set[int]:
        return set()

    def close(self) -> None:
        """Likewise."""

    retire = close


# --- runners that break a promise -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Make:
    """What a pilot is made of."""

    journal: type[TurnedJournal] = TurnedJournal
    lanes: type[MemoryLanes] = MemoryLanes
    reporter: type[Reporter] = Reporter
    client: type[PandaClient] = PandaClient
    live: Callable[[World, Pod, Any], None] = lambda _world, pod, story: agent._live(pod, story, RESOURCES)
    settings: Mapping[str, Any] = field(default_factory=dict)


class NoFinalJournal(TurnedJournal):
    def _append(self, kind: Kind, facts: Mapping[str, object]) -> None:
        if kind != Kind.FINAL:
            super()._append(kind, facts)


class RosyJournal(TurnedJournal):
    def _append(self, kind: Kind, facts: Mapping[str, object]) -> None:
        super()._append(kind, {**facts, "exit_code": 0} if kind == Kind.EXITED else facts)


class LyingLanes(MemoryLanes):
    def _arrive(self, url: str, content: bytes) -> None:
        if not url.endswith(".out"):
            super()._arrive(url, content)


class HastyReporter(Reporter):
    def note(self, fields: Mapping[str, Any]) -> None:
        super().note(fields)
        if fields["job_sub_status"] == "stage-out":
            self.final({"job_status": "finished", "trans_exit_code": 0, "pilot_error_code": 0}, Deadline.after(60))


class AskNothingReporter(Reporter):
    def ask_status(self, _job_id: int) -> None:
        self.mailbox.put(Known("running", None))


class InsatiableReporter(Reporter):
    def acquire(self, question: Any, lost_s: float = 0, may: Callable[[], bool] = lambda: True) -> None:
        self._question = question
        super().acquire(question, lost_s, may)

    def withdraw(self) -> None:
        with contextlib.suppress(ServerError, CredentialError):
            self._client.acquire_job(self._question)
        super().withdraw()


class TwoTonguedClient(PandaClient):
    def update_job(self, update: Mapping[str, Any]) -> Any:
        if update["job_status"] == "finished":
            with contextlib.suppress(Exception):
                super().update_job(update)
            update = {**update, "job_status": "failed", "pilot_error_code": 1234}
        return super().update_job(update)


def _rerun(world: World, pod: Pod, story: Any) -> None:
    """A life that runs the payload again which an earlier one has left."""
    if story.open is None or story.open.job is None:
        agent._live(pod, story, RESOURCES)
        return
    run_job(replace(story.open.job, command=world.command), RESOURCES, replace(pod, site=_SITE))


BROKEN: Mapping[str, Make] = {
    "no-final-record": Make(journal=NoFinalJournal),
    "exit-code-forgotten": Make(journal=RosyJournal),
    "payload-run-again": Make(live=_rerun),
    "stored-is-not-stored": Make(lanes=LyingLanes),
    "reports-before-stage-out": Make(reporter=HastyReporter),
    "two-finals": Make(client=TwoTonguedClient),
    "asks-nobody-before-outputs": Make(reporter=AskNothingReporter),
    "lease-ignored": Make(settings={"lease": 1e9}),
    "asks-after-a-stop": Make(reporter=InsatiableReporter),
}
"""Runners that are wrong, and must be caught."""


# --- the world of a schedule ------------------------------------------------------------------------

RESOURCES = probe(Path("/"))


class World:
    """A server, a volume and a clock, in which a pilot lives its lives."""

    def __init__(self, folder: Path, script: Script, seed: int = 0, make: Make | None = None) -> None:
        self.script, self.seed, self.make = script, seed, make or Make()
        self.data, self.work, self.runs = folder / "data", folder / "work", folder / "runs"
        self.work.mkdir()
        self.clock = Turns()
        self._away_until = -math.inf
        self._given_away: set[int] = set()
        self.found: list[Violation] = []
        self.met: Counter[str] = Counter()
        self.taken: set[int] = set()  # the jobs that are in the journal
        self._server = EmbeddedServer(self.data)
        self._server._open()
        self._parts = self._server._opened
        self._application = application(self._parts)
        self._parts.faults.set(script.rules)
        self._last: dict[int, tuple[str, float | None, float]] = {}  # state, heard, and when on our clock
        self.settings = self._settings(folder)
        self.command = self._command()
        self.job = self._submit()
        self._lives = 0
        self.be(Life())

    def be(self, life: Life) -> None:
        """A life begins; nothing is left of what an earlier one knew."""
        self.life = life
        self.dead = False
        self._count, self._moves = 0, 0
        self._names: Counter[str] = Counter()
        self._heard: dict[int, float] = {}  # when the pilot was last told that the job is its own
        self._told: set[int] = set()  # jobs of which it was told that they are not

    def _settings(self, folder: Path) -> Settings:
        queue, storages = folder / "queue.json", folder / "storages.json"
        queue.write_text(json.dumps(_QUEUE))
        storages.write_text(json.dumps(_STORAGES))
        settings = Settings(
            server=BASE, work=str(self.work), idle=60, node="ours", batch_id="b", in_pod=True,
            queuedata=str(queue), storagedata=str(storages),
        )  # fmt: skip
        return replace(settings, **self.make.settings)

    def _command(self) -> str:
        """Built-ins of the shell only: one process."""
        names = [] if self.script.missing else [self.output(number) for number in range(self.script.outputs)]
        made = [f"printf '%s' '{self.content(name)}' > {name}" for name in names]
        end = "kill -9 $$" if self.script.exit_code < 0 else f"exit {self.script.exit_code}"
        return "; ".join([f"echo $PANDAID >> '{self.runs}'", *made, end])

    @staticmethod
    def output(number: int) -> str:
        return f"{number}.out"

    def content(self, name: str) -> str:
        """What the payload writes into an output."""
        return f"{self.seed} {name}"

    def _submit(self) -> int:
        inputs = [f"{number}.in" for number in range(self.script.inputs)]
        for name in inputs:
            self.put(f"{BASE}/store/test/{name}", name.encode())
        definition = {
            "command": self.command,
            "inputs": [{"name": name, "url": f"{BASE}/store/test/{name}"} for name in inputs],
            "outputs": [self.output(number) for number in range(self.script.outputs)],
            "walltime_s": self.script.walltime_s,
            "maxAttempt": self.script.attempts,
        }
        return self.post("/local/jobs", {"definition": definition})["id"]

    def close(self) -> None:
        self._server.stop()

    # --- the server's side

    def http(
        self, method: str, url: str, body: bytes | None = None, query: Mapping[str, Any] | None = None
    ) -> Answer | None:
        """One request to the application; None if its answer is lost."""
        content = body or b""
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": url.removeprefix(BASE),
            "QUERY_STRING": urlencode(query or {}),
            "CONTENT_TYPE": "application/json" if body else "",
            "CONTENT_LENGTH": str(len(content)),
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "25080",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(content),
            "wsgi.errors": sys.stderr,
            "HTTP_ACCEPT": "application/json",  # the pilot's own: without it the server answers in another format
        }
        status: list[int] = []
        pieces = self._application(environ, lambda line, _headers: status.append(int(line[:3])))
        text = b"".join(pieces)
        self._note()
        return None if environ.get("pilot.drop") else Answer(status[0], text)

    def post(self, path: str, value: Mapping[str, Any]) -> Any:
        answer = self.http("POST", path, json.dumps(value).encode())
        return None if answer is None else history.decoded(answer.body.decode())

    def _note(self) -> None:
        """When, on our clock, the server heard of each job; and its verdicts, if it is prompt."""
        for record in self._parts.table.all():
            heard = max(record.acquired or 0.0, record.heard or 0.0)
            if self._last.get(record.id, ("", None, 0.0))[:2] != (record.status, heard):
                self._last[record.id] = (record.status, heard, self.clock.monotonic())
            if record.status == "holding" and self.script.prompt:
                self._parts.adder.judge_now(record.id)

    def _patrol(self) -> None:
        """End the jobs of which nothing was heard for too long; one that was down does not count its own silence."""
        up_since = -math.inf if self.script.watching else self._away_until
        for job, (status, _, since) in tuple(self._last.items()):
            limit = Limits().of(status)
            if limit and status != "holding" and self.clock.monotonic() - max(since, up_since) > limit[0]:
                self.give_away(job)

    def give_away(self, job: int) -> None:
        """The server ends an attempt, and another pilot may have the next."""
        record = self._parts.table.load(job)
        if record is None or record.status not in OURS:
            return
        self.met["given away"] += 1
        self._given_away.add(job)
        self._parts.table.change(job, lambda one: self._parts.adder._step(one, math.inf))
        self._note()
        retry = self._parts.table.load(job).retry
        if retry and self.script.rival:
            self._rival(retry)

    def _rival(self, job: int) -> None:
        """Another pilot, which meets no faults, takes the job and brings it to its end."""
        faults, self._parts.faults._rules = self._parts.faults._rules, []
        asked = {"site_name": "LOCAL", "prod_source_label": "managed", "node": "rival", "computing_element": "LOCAL"}
        given = self.post("/api/v1/pilot/acquire_jobs", {**asked, "n_jobs": 1})["data"]["jobs"][0]
        assert given["PandaID"] == job
        said = {"job_id": job, "attempt_nr": given["attemptNr"], "node": "rival"}
        self.post("/api/v1/pilot/update_job", {**said, "job_status": "running"})
        end = {"job_status": "failed", "pilot_error_code": 1305, "trans_exit_code": 1}
        if self.script.good:
            report = self._stored_by_rival(given)
            end = {"job_status": "finished", "trans_exit_code": 0, "job_output_report": json.dumps(report)}
        self.post("/api/v1/pilot/update_job", {**said, **end})
        self._parts.faults._rules = faults

    def _stored_by_rival(self, given: Mapping[str, Any]) -> dict[str, Any]:
        plan = make_plan(decode_job(given), _SITE, self.work, Trust())
        report = {}
        for name, (url, _) in plan.destinations.items():
            content = self.content(name).encode()
            self.put(url, content)
            report[name] = {"guid": "g", "fsize": len(content), "adler32": f"{zlib.adler32(content):08x}", "surl": url}
        return report

    def expire(self, but: Collection[int] = ()) -> None:
        """Nobody will be heard of these jobs again: the server's limits of silence end them."""
        for record in self._parts.table.all():
            if record.active and record.status != "activated" and record.id not in but:
                self._parts.table.change(record.id, lambda one: self._parts.adder._step(one, math.inf))

    @property
    def waiting(self) -> bool:
        """Whether there is a job to be taken."""
        return bool(self._parts.table.all("activated"))

    def calm(self) -> None:
        """From now on the server is there, and makes no faults."""
        self._parts.faults.set([])
        self._away_until = -math.inf

    # --- the pilot's side

    def path(self, url: str) -> Path:
        """The file behind a URL of the store, or of our own disk."""
        parts = urlsplit(url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else self.data / unquote(parts.path).lstrip("/")

    def put(self, url: str, content: bytes) -> None:
        """Store a file: on our own disk, or with the server, which keeps that in mind."""
        if url.startswith("file:"):
            self.path(url).write_bytes(content)
        else:
            answer = self.http("PUT", url, content)
            assert answer is not None
            assert answer.status in (201, 204), answer

    def is_away(self) -> bool:
        return self.clock.monotonic() < self._away_until

    def check_alive(self) -> None:
        """End the calling thread if the process is no more."""
        if not self.dead:
            return
        if self.clock.is_reporter:
            self.clock.leave()
            raise SystemExit
        raise Crash

    def point(self, name: str, tear: Callable[[], None] = lambda: None) -> None:
        """One of the points of a life: something may happen here."""
        self.check_alive()
        self._count += 1
        self._names[name] += 1
        self._patrol()
        nth = f"{name}{self._names[name]}" if self._names[name] > 1 else name
        event, _, much = (self.life.events.get(self._count) or self.life.events.get(nth, "")).partition(" ")
        if event:
            self.met[event] += 1
            self._happens(event, float(much or 0), tear)
        self.check_alive()

    def _happens(self, event: str, much: float, tear: Callable[[], None]) -> None:
        job = max(self._heard, default=self.job)
        match event:
            case "crash":
                self.dead = True
            case "tear":
                tear()
                self.dead = True
            case "away":
                self._away_until = self.clock.monotonic() + much
            case "stop" if self.stop.reason is None:
                self.stop.request(Reason.PREEMPTED)
                self.journal.write(Kind.STOP, reason=self.stop.reason)
            case "hurry":
                self.hurry.request(Reason.PREEMPTED)
            case "taken":
                self.give_away(job)
            case "kill":
                self.post("/api/v1/job/kill", {"job_ids": [job]})
            case "drain":
                self.post("/api/v1/job/set_command", {"job_id": job, "command": "softkill"})

    def let(self, until: float, enough: Callable[[], bool]) -> None:
        """Main waits: the reporter's turn."""
        self.clock.let(until, enough)
        self.check_alive()

    def pass_time(self, seconds: float) -> None:
        """Something takes so long, unless it is stopped: what is due now happens in any case."""
        self.let(self.clock.monotonic() + seconds, lambda: self.stop.reason is not None or bool(self._told))

    def next_move(self) -> Move:
        self._moves += 1
        return self.life.moves.get(self._moves, Move())

    def asks(self, call: str) -> None:
        """The pilot is about to make a call."""
        if call == "acquire_jobs" and self.stop.reason is not None:
            self.found.append(Violation("P3", None, "a job was asked for after the stop"))

    def heard(self, call: str, body: bytes | None, query: Mapping[str, Any] | None, answer: Answer) -> None:
        """The pilot has got an answer: what it now knows of its job."""
        now = self.clock.monotonic()
        value = history.as_object(history.decoded(answer.body.decode("utf-8", "replace")))
        data = value.get("data")
        if answer.status != 200 or value.get("success") is not True:
            return
        if call == "acquire_jobs":
            self._heard.update({one["PandaID"]: now for one in history.as_object(data).get("jobs", ())})
        elif call == "get_job_status":
            told = data[0]["status"] if isinstance(data, list) else "unknown"
            if told != "unknown":
                self._learn(int(query["job_ids"]), ours=told in OURS)
        elif call == "update_job" and history.as_object(data).get("StatusCode") == 0:
            self._learn(json.loads(body)["job_id"], ours="tobekilled" not in str(data.get("command")))

    def _learn(self, job: int, *, ours: bool) -> None:
        if ours:
            self._heard[job] = self.clock.monotonic()
        else:
            self._told.add(job)

    def stores(self, transfer: Any) -> None:
        """An output is about to be stored: of a job that was given away only if the pilot could not know (lease)."""
        job = int(re.search(r"/job-(\d+)-", transfer.source)[1])
        record = self._parts.table.load(job)
        if not transfer.name.endswith(".out") or (record.status in OURS and job not in self._told):
            return
        silent_s = self.clock.monotonic() - self._heard.get(job, -math.inf)
        if job in self._told:
            self._lost(job, transfer.name, "though the pilot was told so")
        elif silent_s > Settings().lease and not self._begun(job):
            self._lost(job, transfer.name, f"and the pilot has not asked, silent for {silent_s:.0f} s")

    def _begun(self, job: int) -> bool:
        """Whether outputs of it were stored before in this life: the question comes before the first."""
        return any(one.get("kind") == Kind.STORED and f".{job}/" in one["url"] for one in read(self.work))

    def _lost(self, job: int, name: str, how: str) -> None:
        self.found.append(
            Violation("P1", job, f"output {name} was stored when the attempt was not ours any more, {how}")
        )

    def explains(self, found: Violation) -> bool:
        """Whether it is that of a log which a rival has replaced: a retry keeps the names of the files."""
        return found.job in self._given_away and f"but output job.{self.job}.log.tgz has" in found.what

    # --- lives

    def live(self, life: Life) -> None:
        """One life of the pilot, from taking the volume to its end."""
        self.clock.skip(life.after_s)
        self.be(life)
        self._lives += 1
        with contextlib.ExitStack() as stack:
            self.stop, self.hurry, self.drain = stack.enter_context(Stop()), stack.enter_context(Stop()), Drain()
            stack.callback(os.close, self.drain.fileno())
            self.journal = stack.enter_context(self.make.journal.open(self.work))
            self.journal.world = self
            stack.callback(self.clock.end)
            try:
                self._live(stack)
            except Crash:
                self.met["died"] += 1
            except (SiteError, CredentialError):
                self.met["left with an error"] += 1
            except Hang:
                self.found.append(Violation("P1", self.job, "main waits for ever"))
            except Exception as error:  # noqa: BLE001 - whatever it is, the pilot let it out
                self.found.append(Violation("P1", self.job, f"the pilot ended with {type(error).__name__}: {error}"))
        self.dead = True

    def _live(self, stack: contextlib.ExitStack) -> None:
        self.journal.begin(life=str(self._lives), pid=os.getpid(), settings={})
        pod = self._pod(stack)
        self.clock.born(pod.reporter)
        story = tell(self.journal.past)
        self.met["recovered"] += story.open is not None
        self.make.live(self, pod, story)
        self.journal.write(Kind.LEFT, code=0)

    def _pod(self, stack: contextlib.ExitStack) -> Pod:
        wire = Wire(MemoryTransport(self), BASE, "test")
        rng = random.Random(self.seed * 10 + self._lives)
        reporter = self.make.reporter(self.make.client(wire), pace=Pace(300, 60), clock=self.clock, rng=rng)
        reporter.mailbox.close()
        reporter.mailbox = TurnedMailbox(self)
        stack.callback(reporter.mailbox.close)
        watchdog = Watchdog(300, 30, self.work / "pilot.log", arrivals=-1, stop=self.stop)
        stack.callback(os.close, watchdog._changed)
        return Pod(
            settings=self.settings,
            site=_SITE,
            work=self.work,
            journal=self.journal,
            watchdog=watchdog,
            credentials=Credentials(CredentialFiles(), lambda _: None, time.time),
            reporter=reporter,
            lanes=self.make.lanes(self),
            clock=self.clock,
            redactor=Redactor(),
            stop=self.stop,
            hurry=self.hurry,
            drain=self.drain,
            deadline=Deadline.never(self.clock),
            inherited={},
        )


# --- one schedule, from its script to its verdict -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a schedule: violations, what happened in it, and its attempts as the server saw them."""

    violations: list[Violation]
    met: Counter[str]
    attempts: tuple[history.Attempt, ...]


def run(script: Script, seed: int = 0, make: Make | None = None) -> Result:
    """Live the lives of the script, then calm ones until nothing is open; then judge."""
    folder = Path(tempfile.mkdtemp(prefix="schedule-", dir=_FAST if _FAST.is_dir() else None))
    try:
        with contextlib.closing(World(folder, script, seed, make)) as world:
            for life in script.lives:
                world.live(life)
            world.calm()
            if script.lost:
                world.expire()
            else:
                _bring_to_an_end(world)
            return judge(world)
    finally:
        shutil.rmtree(folder)


def _bring_to_an_end(world: World) -> None:
    """Lives in which nothing goes wrong. What no pilot has ever taken, or was refused as a final, the server ends."""
    for _ in range(_CALM_LIVES):
        if tell(read(world.work)).open is None and not world.waiting:
            break
        world.live(Life())
    refused = any(rule.body == _REFUSED for rule in world.script.rules)
    world.expire(but=() if refused else world.taken)


def judge(world: World) -> Result:
    """What the checker finds, and what it cannot know: the payload's true end, and its outputs' true bytes."""
    session = _Session(world)
    facts = Facts(slots=99, runs_file=world.runs)
    report = examine(BASE, facts, data=world.data, session=session)
    found = [*world.found, *(one for one in report.violations if not world.explains(one))]
    world.met["output checked"] += report.outputs
    world.met["output replaced by a rival, unchecked"] += len(report.unchecked)
    world.met["log replaced by a rival, excused"] += sum(map(world.explains, report.violations))
    attempts = history.read(BASE, session).attempts
    for attempt in attempts:
        for final in attempt.finals:
            found += _untrue(world, attempt.job, final)
    return Result(found, world.met, attempts)


def _untrue(world: World, job: int, final: history.Request) -> Iterator[Violation]:
    if final.sent.get("pilot_error_code") == InternalError.code:
        yield Violation("P1", job, f"a fault of the pilot's own: {final.sent.get('pilot_error_diag')}")
    if final.state != "finished":
        return
    if world.script.exit_code:
        yield Violation("P2", job, f"finished, though the payload exited with {world.script.exit_code}")
    report = history.as_object(history.decoded(final.sent.get("job_output_report") or ""))
    for name, entry in report.items():
        file = world.path(str(entry["surl"]))
        if name.endswith(".out") and file.is_file() and file.read_text() != world.content(name):
            yield Violation("P2", job, f"finished, but output {name} has other bytes than the payload wrote")


class _Session:
    """The world's application as a session of requests, for those who read its history. Each page is read once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pages: dict[str, _Page] = {}

    def get(self, url: str, **_more: Any) -> _Page:
        if url not in self._pages:
            answer = self._world.http("GET", url)
            self._pages[url] = _Page(json.loads(answer.body))
        return self._pages[url]


class _Page:
    def __init__(self, value: Any) -> None:
        self._value = value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        """Nothing is open."""

    def raise_for_status(self) -> None:
        """It was read."""

    def json(self) -> Any:
        return self._value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The pilot's log goes nowhere but into the files of the jobs, and a reporter ends with its process silently."""
    pilot, nowhere, told = logging.getLogger("pilot"), logging.NullHandler(), threading.excepthook
    propagates, pilot.propagate = pilot.propagate, False
    pilot.addHandler(nowhere)
    threading.excepthook = lambda what: None if what.exc_type is SystemExit else told(what)
    try:
        yield
    finally:
        threading.excepthook = told
        pilot.propagate = propagates
        pilot.removeHandler(nowhere)


# --- the program --------------------------------------------------------------------------------------


def first_caught(make: Make, seeds: Collection[int]) -> tuple[int, list[Violation]]:
    """After how many schedules a runner is caught, and by what: nothing, if it is not."""
    for count, seed in enumerate(seeds, 1):
        if found := run(script_of(seed), seed, make).violations:
            return count, found
    return len(seeds), []


def main(arguments: list[str] | None = None) -> int:
    """The program: prints what was found and returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.fault.schedules", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--schedules", type=int, default=10_000, metavar="N", help="how many (10000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the first one's seed (1)")
    parser.add_argument("--broken", choices=[*BROKEN, "all"], help="a runner that must be caught")
    options = parser.parse_args(arguments)
    seeds = range(options.seed, options.seed + options.schedules)
    become_subreaper()  # as every pilot does
    with quiet():
        if options.broken:
            names = list(BROKEN) if options.broken == "all" else [options.broken]
            return max(_catch(name, seeds) for name in names)
        return _soak(seeds)


def _catch(name: str, seeds: range) -> int:
    count, found = first_caught(BROKEN[name], seeds)
    if not found:
        print(f"{name}: NOT CAUGHT in {count} schedules", flush=True)
        return 1
    print(f"{name}: caught after {count} schedules", *found, sep="\n    ", flush=True)
    return 0


def _soak(seeds: range) -> int:
    began, bad = time.monotonic(), 0
    met: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for seed in seeds:
        result = run(script_of(seed), seed)
        met.update(result.met)
        states.update(str(one.state) for one in result.attempts)
        bad += bool(result.violations)
        for one in result.violations:
            print(f"seed {seed}: {one}", flush=True)
    took = time.monotonic() - began
    print(f"met: {', '.join(f'{name} {count}' for name, count in met.most_common())}")
    print(f"jobs: {', '.join(f'{name} {count}' for name, count in states.most_common())}")
    print(f"{len(seeds)} schedules, {bad} with violations, {took:.0f} s, {len(seeds) / took:.1f} schedules/s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
