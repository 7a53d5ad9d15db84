"""World: where a pilot lives its lives, and meets what the script has for it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pilot.agent import agent
from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Answer
from pilot.panda.client import PandaClient
from pilot.panda.report import Pace
from pilot.panda.reporter import Reporter
from pilot.panda.wire import Wire
from pilot.resources.probe import probe
from pilot.runner.journal import Kind, read
from pilot.runner.lease import OURS
from pilot.runner.past import tell
from pilot.runner.pod import Pod
from pilot.runner.watchdog import Watchdog
from pilot.values.deadline import Deadline
from pilot.values.errors import CredentialError, SiteError
from pilot.values.events import Redactor
from pilot.values.settings import Settings
from pilot.values.stop import Drain, Reason, Stop
from tests import history
from tests.checker import Violation
from tests.fault.schedules.injected import Hang, MemoryLanes, MemoryTransport, TurnedJournal, TurnedMailbox, Turns
from tests.fault.schedules.script import Life, Move, Script
from tests.fault.schedules.server import BASE, QUEUE, SITE, STORAGES, Server

RESOURCES = probe(Path("/"))


class Crash(BaseException):
    """The pilot's process ends here and now: nothing of ours may catch it."""


def live_on(_world: World, pod: Pod, story: Any) -> None:
    """The life of a pilot from what an earlier one has left."""
    agent._live(pod, story, RESOURCES)


@dataclass(frozen=True, slots=True)
class Make:
    """What a pilot is made of."""

    journal: type[TurnedJournal] = TurnedJournal
    lanes: type[MemoryLanes] = MemoryLanes
    reporter: type[Reporter] = Reporter
    client: type[PandaClient] = PandaClient
    live: Callable[[World, Pod, Any], None] = live_on
    settings: Mapping[str, Any] = field(default_factory=dict)


class World:
    """A server, a volume and a clock, in which a pilot lives its lives."""

    def __init__(self, folder: Path, script: Script, seed: int = 0, make: Make | None = None) -> None:
        self.script, self.seed, self.make = script, seed, make or Make()
        self.work, self.runs = folder / "work", folder / "runs"
        self.work.mkdir()
        self.clock = Turns()
        self.found: list[Violation] = []
        self.met: Counter[str] = Counter()
        self.taken: set[int] = set()  # the jobs that are in the journal
        self.server = Server(folder / "data", script, seed, self.clock, self.met)
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
        queue.write_text(json.dumps(QUEUE))
        storages.write_text(json.dumps(STORAGES))
        settings = Settings(
            server=BASE, work=str(self.work), idle=60, node="ours", batch_id="b", in_pod=True,
            queuedata=str(queue), storagedata=str(storages),
        )  # fmt: skip
        return replace(settings, **self.make.settings)

    def _command(self) -> str:
        """Built-ins of the shell only: one process."""
        names = [] if self.script.missing else [self.output(number) for number in range(self.script.outputs)]
        made = [f"printf '%s' '{self.server.content(name)}' > {name}" for name in names]
        end = "kill -9 $$" if self.script.exit_code < 0 else f"exit {self.script.exit_code}"
        return "; ".join([f"echo $PANDAID >> '{self.runs}'", *made, end])

    @staticmethod
    def output(number: int) -> str:
        return f"{number}.out"

    def _submit(self) -> int:
        inputs = [f"{number}.in" for number in range(self.script.inputs)]
        for name in inputs:
            self.server.put(f"{BASE}/store/test/{name}", name.encode())
        definition = {
            "command": self.command,
            "inputs": [{"name": name, "url": f"{BASE}/store/test/{name}"} for name in inputs],
            "outputs": [self.output(number) for number in range(self.script.outputs)],
            "walltime_s": self.script.walltime_s,
            "maxAttempt": self.script.attempts,
        }
        return self.server.post("/local/jobs", {"definition": definition})["id"]

    def close(self) -> None:
        self.server.close()

    # --- the points of a life

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
        self.server.patrol()
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
                self.server.away(much)
            case "stop" if self.stop.reason is None:
                self.stop.request(Reason.PREEMPTED)
                self.journal.write(Kind.STOP, reason=self.stop.reason)
            case "hurry":
                self.hurry.request(Reason.PREEMPTED)
            case "taken":
                self.server.give_away(job)
            case "kill":
                self.server.post("/api/v1/job/kill", {"job_ids": [job]})
            case "drain":
                self.server.post("/api/v1/job/set_command", {"job_id": job, "command": "softkill"})

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

    # --- what the pilot was told of its jobs, and does in spite of it

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
        job = int(re.search(r"/job-(\d+)-", transfer.routes[0].source)[1])
        record = self.server.record(job)
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
        return found.job in self.server.given_away and f"but output job.{self.job}.log.tgz has" in found.what

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
            site=SITE,
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
