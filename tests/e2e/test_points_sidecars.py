"""Points that are evaluated in sidecars: real runners in directories that they share with `pilot run`."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab import dump, until
from tests.studies import ECHO, PATIENCE, ended, jobs, look, losses, python, study, submit

RUNNER = Path(__file__).parents[2] / "wrappers/payload-sidecar.sh"


@pytest.fixture
def sidecars(tmp_path):
    """Two runners, by the names of their directories; with what they run they end with the test."""
    shared, processes = tmp_path / "shared", {}
    for name in ("0", "1"):
        (shared / name).mkdir(parents=True)
        command = [shutil.which("dash") or "sh", str(RUNNER), str(shared / name)]
        processes[name] = subprocess.Popen(command, start_new_session=True)
    until(lambda: all((shared / name / "__payload_alive__").exists() for name in processes), what="signs of life")
    yield shared, processes
    for process in processes.values():
        process.kill()
        process.wait()
    for file in shared.glob("*/workDir/session"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.killpg(os.getsid(int(file.read_text())), signal.SIGKILL)


def test_both_sidecars_evaluate_one_is_killed_and_the_other_goes_on(serve, run, sidecars):
    shared, processes = sidecars
    command = "echo $$ > session; pwd > where; sleep 0.5; " + python(ECHO)
    task = submit(serve, study(points=8, command=command, evaluation={"image": "hub.example.org/analysis:7"}))
    pilot = run("--max-jobs", "1", environment={**PATIENCE, "PILOT_SIDECARS": str(shared)})
    pilot.says("evaluation started point=2")
    until(lambda: look(serve, task)["counts"]["evaluated"] >= 2, what="two points")
    pilot.says("slot=0 device=0")
    pilot.says("slot=1 device=1")
    os.killpg(processes["1"].pid, signal.SIGKILL)
    assert pilot.wait() == 0
    found = ended(serve, task)
    assert found["counts"]["evaluated"] == 8, dump(found["counts"])
    assert all(len(told) == 1 for told in losses(serve, task).values())
    assert "slot set aside slot=1" in pilot.log.read_text()
    assert [status["state"] for status in jobs(serve, task)] == ["finished"]


def test_a_stopped_pilot_ends_what_runs_in_its_sidecars(serve, run, sidecars):
    shared, _ = sidecars
    command = "echo $$ > session; trap 'exit 5' TERM; touch began; while :; do sleep 0.1; done"
    task = submit(serve, study(points=2, command=command))
    pilot = run("--max-jobs", "1", environment={**PATIENCE, "PILOT_SIDECARS": str(shared)})
    until(lambda: len(list(shared.glob("*/workDir/began"))) == 2, what="two evaluations")
    pids = [int(file.read_text()) for file in shared.glob("*/workDir/session")]
    pilot.signal(signal.SIGTERM)
    assert pilot.wait() == 0
    status = jobs(serve, task)[0]
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 5, "the end of what ran in them")


def test_without_a_living_sidecar_the_job_is_refused_before_a_point_is_taken(serve, run, tmp_path):
    (tmp_path / "shared").mkdir()
    task = submit(serve, study(points=1))
    pilot = run("--max-jobs", "1", environment={**PATIENCE, "PILOT_SIDECARS": str(tmp_path / "shared")})
    assert pilot.wait() == 0
    status = jobs(serve, task)[0]
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1360), dump(status)
    assert not serve.calls("acquire_event_ranges")
