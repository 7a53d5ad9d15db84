"""Judge: a schedule from its script to its verdict, which is the checker's and what the world itself knows."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pilot.runner.journal import read
from pilot.runner.past import tell
from pilot.values.errors import InternalError
from tests import history
from tests.checker import Violation, examine
from tests.facts import Facts
from tests.fault.schedules.script import REFUSED, Life, Script
from tests.fault.schedules.server import BASE
from tests.fault.schedules.world import Make, World

_FAST = Path("/dev/shm")  # a disk that syncs for nothing
_CALM_LIVES = 4


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
            world.server.calm()
            if script.lost:
                world.server.expire()
            else:
                _bring_to_an_end(world)
            return judge(world)
    finally:
        shutil.rmtree(folder)


def _bring_to_an_end(world: World) -> None:
    """Lives in which nothing goes wrong. What no pilot has ever taken, or was refused as a final, the server ends."""
    for _ in range(_CALM_LIVES):
        if tell(read(world.work)).open is None and not world.server.waiting:
            break
        world.live(Life())
    refused = any(rule.body == REFUSED for rule in world.script.rules)
    world.server.expire(but=() if refused else world.taken)


def judge(world: World) -> Result:
    """What the checker finds, and what it cannot know: the payload's true end, and its outputs' true bytes."""
    session = _Session(world)
    facts = Facts(slots=99, runs_file=world.runs)
    report = examine(BASE, facts, data=world.server.data, session=session)
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
    if final.sent.get("pilot_error_code") == InternalError("").code:
        yield Violation("P1", job, f"a fault of the pilot's own: {final.sent.get('pilot_error_diag')}")
    if final.state != "finished":
        return
    if world.script.exit_code:
        yield Violation("P2", job, f"finished, though the payload exited with {world.script.exit_code}")
    report = history.as_object(history.decoded(final.sent.get("job_output_report") or ""))
    for name, entry in report.items():
        file = world.server.path(str(entry["surl"]))
        if name.endswith(".out") and file.is_file() and file.read_text() != world.server.content(name):
            yield Violation("P2", job, f"finished, but output {name} has other bytes than the payload wrote")


class _Session:
    """The world's application as a session of requests, for those who read its history. Each page is read once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pages: dict[str, _Page] = {}

    def get(self, url: str, **_more: Any) -> _Page:
        if url not in self._pages:
            answer = self._world.server.http("GET", url)
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
