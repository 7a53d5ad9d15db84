"""Broken runners: each breaks a promise, and must be caught."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from pilot.panda.client import PandaClient
from pilot.panda.messages import Known
from pilot.panda.reporter import Reporter
from pilot.runner.journal import Kind
from pilot.runner.pod import Pod
from pilot.runner.runner import run_job
from pilot.values.deadline import Deadline
from pilot.values.errors import CredentialError, ServerError
from tests.checker import Violation
from tests.fault.schedules.injected import MemoryLanes, TurnedJournal
from tests.fault.schedules.judge import run
from tests.fault.schedules.script import script_of
from tests.fault.schedules.server import SITE
from tests.fault.schedules.world import RESOURCES, Make, World, live_on


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
        live_on(world, pod, story)
        return
    run_job(replace(story.open.job, command=world.command), RESOURCES, replace(pod, site=SITE))


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


def first_caught(make: Make, seeds: Collection[int]) -> tuple[int, list[Violation]]:
    """After how many schedules a runner is caught, and by what: nothing, if it is not."""
    for count, seed in enumerate(seeds, 1):
        if found := run(script_of(seed), seed, make).violations:
            return count, found
    return len(seeds), []
