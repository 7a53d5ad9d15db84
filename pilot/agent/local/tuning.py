"""Pilot after pilot until a study has ended, with everything that is to be seen meanwhile kept up to date."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pilot.agent.local.api import LocalServer
from pilot.agent.local.children import child
from pilot.agent.local.outfolder import OutFolder
from pilot.agent.local.results import leaderboard, ranking, results, told_points, write_json
from pilot.agent.local.studyfile import StudyFile
from pilot.agent.local.timeline import Timeline
from pilot.agent.local.tunewatch import Spectator
from pilot.values.errors import PilotError

STOPPED = "stopped"
LEASE_S = 600
"""A job whose pilot and journal are lost gives its points back after so many seconds."""
_ENDS = ("finished", "failed", "cancelled")
_STOPS = (1201, 1379)  # a job that was told to stop says nothing of its study
_LOOK_S = 0.5
_GRACE_S = 20
_IDLE_S = 5
_MANY_JOBS = 1_000_000
_LAST_JOB_S = 60.0  # for a pilot to end its job when the last point has its loss
_HOPELESS = 3
"""So many points that failed, and none that did not, are enough to give up in the middle of a study."""


class Tuning:
    """One run of `pilot tune`. The server is there, and has the study."""

    def __init__(
        self,
        api: LocalServer,
        task: int,
        given: StudyFile,
        folder: OutFolder,
        timeline: Timeline,
        watching: Spectator,
        environment: Mapping[str, str],
    ) -> None:
        self._api = api
        self._task = task
        self._given = given
        self._folder = folder
        self._timeline = timeline
        self._watching = watching
        self._environment = environment
        self._status = api.study(task)
        self._judged = set(self._status["jobs"])
        self._failed: dict[str, Any] | None = None
        timeline.read()
        timeline.life_ended()
        self._before = len(timeline.ended)
        self._real_before = self._real()

    def run(self) -> tuple[str, str]:
        """Until the study has ended, is hopeless, or we are stopped: its state, and why. Raises PilotError."""
        self._look()
        try:
            while self._status["state"] == "running":
                before = self._mark()
                code = self._one_pilot()
                if self._status["state"] == "running" and (why := self._hopeless()):
                    return "failed", why
                if code != 0:
                    raise PilotError(f"pilot run left with {code}: {self._last_words()}")
                if self._status["state"] == "running" and before == self._mark():
                    return "failed", f"the pilot found nothing to do; its log is {self._folder.log}"
        except KeyboardInterrupt:
            self._look()
            return STOPPED, "interrupted"
        return self._status["state"], self._status["why"]

    def results(self, state: str, why: str) -> dict[str, Any]:
        """What came out of it."""
        return {**results(self._status, self._given.study, self._timeline, state), "why": why}

    # --- one pilot ----------------------------------------------------------------------------------

    def _one_pilot(self) -> int:
        """A pilot from start to end; its exit code."""
        folder = self._folder
        _write_settings(folder.settings, self._given)
        folder.end_log_line()
        arguments = ["run", "--server", self._api.url, "--queue", "LOCAL", "--work", str(folder.work)]
        arguments += ["--max-jobs", str(_MANY_JOBS), "--idle", str(_IDLE_S), "--config", str(folder.settings)]
        with child(arguments, self._environment, folder.pilot_errors, folder.log) as pilot:
            try:
                code = self._watch(pilot)
            except KeyboardInterrupt:
                self._watching.say("stopping: evaluations may save what they have")
                pilot.terminate()
                pilot.wait()
                raise
            finally:
                self._timeline.read()
        self._timeline.life_ended()
        self._look()
        return code

    def _watch(self, pilot: subprocess.Popen[str]) -> int:
        """Look at the study until the pilot leaves; it is told to where there is nothing more to be done."""
        finished_at, told = None, False
        while True:
            try:
                return pilot.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                self._look()
            if self._status["state"] != "running" and finished_at is None:
                finished_at = time.monotonic()
            late = finished_at is not None and time.monotonic() - finished_at > _LAST_JOB_S
            over = finished_at is not None and self._judged.issuperset(self._status["jobs"])
            if not told and (late or over or self._hopeless()):
                told = True
                pilot.terminate()

    # --- what is to be seen -------------------------------------------------------------------------

    def _look(self) -> None:
        """Ask the server, read the log, judge jobs that have ended, and show all that."""
        self._status = self._api.study(self._task)
        self._timeline.read()
        for job in self._status["jobs"]:
            if job not in self._judged:
                self._judge(self._api.status(job))
        found = results(self._status, self._given.study, self._timeline)
        write_json(self._folder.leaderboard, leaderboard(found, self._timeline, time.time()))
        self._watching.look(found, self._timeline)

    def _judge(self, job: Mapping[str, Any]) -> None:
        if job["state"] not in _ENDS:
            return
        self._judged.add(job["id"])
        if job["state"] == "failed" and job["pilot_error_code"] not in _STOPS:
            self._failed = dict(job)

    def _hopeless(self) -> str:
        """Why it makes no sense to go on; "" while it does."""
        if self._failed is None:
            return ""
        failed = {one.point for one in self._timeline.ended[self._before :]}
        real = self._real()
        if real and (real > self._real_before or len(failed) < _HOPELESS):
            return ""
        log = self._log_of(self._failed)
        return f"{self._failed['pilot_error_diag']}" + (f"; what it printed is in {log}" if log else "")

    def _log_of(self, job: Mapping[str, Any]) -> Path | None:
        """The log tarball of a job, beside the results."""
        if not job["log"]:
            return None
        file = self._folder.root / str(job["log"]).rsplit("/", 1)[-1]
        if not file.exists():
            self._api.download(job["log"], file)
        return file

    def _real(self) -> int:
        """How many points have a loss of their own."""
        return len(ranking(told_points(self._status["points"])))

    def _mark(self) -> tuple[Any, ...]:
        """What changes when a pilot has done something."""
        points = self._status["points"]
        return (
            [(one["id"], one["state"], one["attempts_left"], one["loss"]) for one in points],
            len(self._timeline.ended),
        )

    def _last_words(self) -> str:
        said = " ".join(self._folder.pilot_errors.read_text(errors="replace").split())[-300:]
        return said or f"its log is {self._folder.log}"


def _write_settings(file: Path, given: StudyFile) -> None:
    """The pilot's settings: alone on its server, it needs not wait for what others do."""
    evaluation = given.study.evaluation
    settings = {
        "input_roots": sorted({str(path.parent) for path in given.local.values()}),
        "points_per_gpu": evaluation.per_gpu,
        "log_format": "json",
        "grace": _GRACE_S,
        "heartbeat": 60,
        "lease": LEASE_S,
        "lost_answer": 1,
        "linger": 3,
        "linger_poll": 0.5,
        "steering_wait": 1,
    }
    file.write_text(yaml.safe_dump(settings))
