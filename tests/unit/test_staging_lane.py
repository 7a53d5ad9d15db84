"""The lane as a process: what it inherits, and that nothing disturbs its pipe."""

from __future__ import annotations

import json
import subprocess
import sys

from pilot.staging.lanes.attempt import Limits
from pilot.staging.lanes.lane import LaneSettings, environment
from pilot.staging.lanes.wallet import Identity
from pilot.values.errors import STAGE_KINDS


def worker(*lines: object, code: str = "", **variables: str) -> list[dict[str, object]]:
    """What a lane answers to these lines until the end of its input."""
    settings = environment(LaneSettings(keep_s=20), Identity()) | variables
    settings.pop("PILOT_LANE_PARENT")
    start = ["-c", code] if code else ["-m", "pilot.staging.worker"]
    done = subprocess.run(
        [sys.executable, *start],
        input="".join(json.dumps(line) + "\n" for line in lines),
        env=settings,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_environment_is_built_from_nothing(monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/tmp/other.pem")
    monkeypatch.setenv("LD_PRELOAD_FOR_TEST", "x")

    variables = environment(LaneSettings(connect_s=7, limits=Limits(idle_s=30)), Identity(token_file="/t"))

    assert not {"REQUESTS_CA_BUNDLE", "LD_PRELOAD_FOR_TEST", "HOME"} & set(variables)
    assert variables["XRD_CONNECTIONWINDOW"] == "7"
    assert variables["XRD_REQUESTTIMEOUT"] == "30"
    assert variables["BEARER_TOKEN_FILE"] == "/t"
    assert "X509_USER_PROXY" not in variables


def test_authorities_are_named_as_a_file_or_as_a_directory(tmp_path):
    assert environment(LaneSettings(ca_path=str(tmp_path)), Identity())["X509_CERT_DIR"] == str(tmp_path)
    assert environment(LaneSettings(ca_path="/ca.pem"), Identity())["X509_CERT_FILE"] == "/ca.pem"


def test_a_lane_says_that_it_is_ready_and_ends_with_its_input():
    assert worker() == [{"ready": True}]


def test_a_lane_warms_up_without_an_answer():
    assert worker({"op": "warm", "schemes": ["http", "root", "file"]}) == [{"ready": True}]


def test_an_order_that_makes_no_sense_costs_an_answer_and_not_the_lane():
    answers = worker(
        {"id": 1, "op": "dance"}, {"id": 2, "op": "copy"}, {"id": 3, "op": "delete", "destination": "s3://b"}
    )

    assert [answer["id"] for answer in answers[1:]] == [1, 2, 3]
    assert {answer["error"]["kind"] for answer in answers[1:]} <= set(STAGE_KINDS)


def test_a_library_that_prints_does_not_disturb_the_answers():
    code = (
        "from pilot.processes import child; import os\n"
        "_, answers = child.take_pipes()\n"
        "os.write(1, b'noise'); print('more noise', flush=True)\n"
        "answers.send({'ready': True})"
    )

    assert worker(code=code) == [{"ready": True}]


def test_a_library_that_asks_gets_nothing():
    code = (
        "from pilot.processes import child; import os\n"
        "_, answers = child.take_pipes()\n"
        "answers.send({'read': os.read(0, 100).decode()})"
    )

    assert worker({"op": "copy"}, code=code) == [{"read": ""}]


def test_a_lane_whose_parent_is_another_one_ends_at_once():
    code = (
        "import os, runpy, sys\n"
        "pid = os.fork()\n"
        "if pid: sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) - 1)\n"
        "os.environ['PILOT_LANE_PARENT'] = '1' if os.getppid() != 1 else '2'\n"
        "runpy.run_module('pilot.staging.worker', run_name='__main__')"
    )

    assert worker(code=code) == []


def test_a_lane_does_not_import_from_the_directory_it_is_in(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    settings = environment(LaneSettings(), Identity())
    settings.pop("PILOT_LANE_PARENT")

    done = subprocess.run(
        [sys.executable, "-m", "pilot.staging.worker"],
        cwd=tmp_path,
        env=settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=30,
    )

    assert b"ready" in done.stdout
