"""A system that has no process, or no thread, to give for a while: strace lets the calls that make them fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.fault.lives import Life, Rig, Tap, rigged
from tests.lab import clean_environment, until
from tests.studies import PATIENCE, study

FORKS = ("clone", "clone3", "fork", "vfork")
PROCESSES = ("clone", "fork", "vfork")
"""glibc makes threads by clone3."""
GRACE_S = 5
FIVE_SECONDS = "1..9"
"""Tries until five seconds are over: pauses of 0.05, 0.1, ... 1 s."""


@pytest.fixture(autouse=True)
def _strace() -> None:
    if shutil.which("strace") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("strace is missing")


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as made:
        yield made


@pytest.fixture
def bare() -> Iterator[Rig]:
    """A job without inputs, so that its payload is the first process."""
    with rigged(inputs=()) as made:
        yield made


def live(rig: Rig, breaks: str, calls: tuple[str, ...] = FORKS, patience_s: float = 60) -> Life:
    rig.environment["PILOT_PATIENCE"] = str(patience_s)
    return rig.live("run", "--max-jobs", 1, "--idle", 1, tap=Tap("pilot", calls, breaks))


def struck(life: Life) -> int:
    return sum("(INJECTED)" in line for line in life.trace.read_text(errors="replace").splitlines())


@pytest.mark.parametrize("when", ["EAGAIN:when=1..6", "ENOMEM:when=2..5"])
def test_a_job_is_brought_to_its_end_though_nothing_could_be_started_for_a_while(rig, when):
    life = live(rig, f"error={when}")

    rig.settle()
    assert rig.outcome() == "finished", life.said.read_text()
    assert struck(life) >= 8
    assert "it is tried again" in life.said.read_text()


def test_a_payload_that_cannot_be_started_for_a_while_runs_once(bare):
    life = live(bare, f"error=EAGAIN:when={FIVE_SECONDS}", PROCESSES)

    bare.settle()
    assert bare.outcome() == "finished", life.said.read_text()
    assert len(bare.runs.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "word", "code"),
    [("EAGAIN", "limit of processes is reached", 1310), ("ENOMEM", "no memory for another process", 1310)],
)
def test_a_payload_for_which_patience_is_over_fails_for_the_limit_that_was_met(bare, error, word, code):
    live(bare, f"error={error}:when=1+", PROCESSES, patience_s=2)

    bare.settle()
    state = bare.state
    assert (state["state"], state["pilot_error_code"]) == ("failed", code)
    assert word in state["pilot_error_diag"]
    assert "payload could not be started" in state["pilot_error_diag"]


def test_an_input_for_which_patience_is_over_fails_for_the_limit_that_was_met(rig):
    live(rig, "error=EAGAIN:when=1+", PROCESSES, patience_s=2)

    rig.settle()
    state = rig.state
    assert (state["state"], state["pilot_error_code"]) == ("failed", 1099)
    assert "no transfer process can be started" in state["pilot_error_diag"]
    assert "raise it, or run less at once" in state["pilot_error_diag"]


@contextlib.contextmanager
def running(rig: Rig, breaks: str, calls: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """A pilot that strace looks at from beside it."""
    said = rig.base / "stopped.out"
    names = ",".join("?" + one for one in calls)
    strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={names}", "-e", f"inject={names}:{breaks}"]
    command = [*strace, sys.executable, "-m", "pilot", "run", "--max-jobs", "1", "--work", str(rig.work)]
    with said.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--server", rig.server.url],
            env={**clean_environment(), "PILOT_GRACE": str(GRACE_S)},
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


@pytest.mark.parametrize("inputs", [(), ("a", "b")])
def test_a_stop_is_obeyed_at_once_while_nothing_can_be_started(inputs):
    with rigged(inputs) as rig, running(rig, "error=EAGAIN:when=1+", PROCESSES) as pilot:
        said = rig.base / "stopped.out"
        until(lambda: "it is tried again" in said.read_text(), what="shortage")
        began = time.monotonic()
        pilot.send_signal(signal.SIGTERM)
        assert pilot.wait(20) == 0, said.read_text()
        assert time.monotonic() - began < GRACE_S
        rig.settle()
        assert (rig.state["state"], rig.state["pilot_error_code"]) == ("failed", 1201), said.read_text()


@pytest.mark.parametrize("breaks", ["error=EAGAIN:when=1..7", "error=ENOMEM:when=3..9"])
def test_evaluations_that_cannot_be_started_for_a_while_are_nobodys_failure(breaks):
    with rigged(job=False) as rig:
        body = {"study": study(points=4), "archive": "", "inputs": [], "queue": "LOCAL"}
        task = rig.ask("POST", "/local/studies", json=body)["task"]
        rig.environment |= {**PATIENCE, "PILOT_SLOTS": "2"}
        life = live(rig, breaks, PROCESSES)

        until(lambda: rig.ask("GET", f"/local/studies/{task}")["state"] != "running", what="the end of the study")
        found = rig.ask("GET", f"/local/studies/{task}")
        assert (found["state"], found["counts"]["evaluated"]) == ("finished", 4), life.said.read_text()
        assert [len(one["losses"]) for one in found["points"]] == [1] * 4
        assert struck(life) >= 7
        assert "slot set aside" not in life.said.read_text()


def test_evaluations_for_which_patience_is_over_fail_for_the_limit_that_was_met():
    with rigged(job=False) as rig:
        body = {"study": study(points=4), "archive": "", "inputs": [], "queue": "LOCAL"}
        task = rig.ask("POST", "/local/studies", json=body)["task"]
        rig.environment |= PATIENCE
        life = live(rig, "error=EAGAIN:when=1+", PROCESSES, patience_s=1)

        assert life.code in (0, 1), life.said.read_text()
        (job,) = rig.ask("GET", f"/local/studies/{task}")["jobs"]
        until(lambda: rig.ask("GET", f"/local/jobs/{job}")["state"] == "failed", what="the end of the job")
        assert "limit of processes is reached" in rig.ask("GET", f"/local/jobs/{job}")["pilot_error_diag"]


def under(strace: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Python code whose calls strace lets fail."""
    command = [*strace, sys.executable, "-c", code]
    return subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize(("start_s", "word"), [(10, "answered"), (0.2, "limit of processes is reached")])
def test_nvmls_process_is_waited_for_as_long_as_its_caller_says(start_s, word):
    code = (
        "from pilot.resources.nvml_process import NvmlGoneError, NvmlProcess\n"
        "from pilot.values.deadline import Deadline\n"
        "try:\n"
        f"    with NvmlProcess([], Deadline.after({start_s})) as nvml:\n"
        "        print('answered', nvml.ask({'op': 'look'}, 20))\n"
        "except NvmlGoneError as gone:\n"
        "    print(gone)\n"
    )
    names = ",".join("?" + one for one in PROCESSES)
    strace = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject={names}:error=EAGAIN:when=1..5"]

    done = under(strace, code)

    assert word in done.stdout, done.stderr


@pytest.mark.parametrize(("when", "threads"), [("2+", 2), ("1..3", 4)])
def test_a_thread_that_is_not_needed_may_be_wanting(when, threads):
    code = (
        "from pilot.runner.hpo.errands import Errands\n"
        "import threading\n"
        "class Lines:\n"
        "    def interrupt(self): pass\n"
        "    def close(self): pass\n"
        "errands, done = Errands(Lines, 3, print), threading.Event()\n"
        "errands.add(0, lambda _: done.set())\n"
        "print('done', done.wait(10), threading.active_count())\n"
        "errands.shut()\n"
    )
    strace = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject=?clone3,?clone:error=EAGAIN:when={when}"]

    done = under(strace, code)

    assert f"done True {threads}" in done.stdout, done.stderr
