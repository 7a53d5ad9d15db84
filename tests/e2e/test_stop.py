"""SIGTERM at a running pilot, and kills that come from the server (issue 2, show 6)."""

import json
import signal
import time
from datetime import datetime

import psutil
import pytest

from tests.lab import dump, until


def seconds_to_exit(pilot):
    began = time.monotonic()
    assert pilot.wait() == 0
    return time.monotonic() - began


def test_a_waiting_pilot_leaves_at_once_and_asks_no_more(serve, run):
    pilot = run()
    until(lambda: serve.calls("acquire_jobs"), what="first acquire")
    pilot.signal(signal.SIGTERM)
    stopped = time.time()
    assert seconds_to_exit(pilot) < 1
    asked = [datetime.fromisoformat(one["time"]).timestamp() for one in serve.calls("acquire_jobs")]
    assert max(asked) <= stopped


def test_a_hanging_acquire_does_not_hold_the_pilot_and_its_job_is_not_lost(serve, run):
    serve.faults({"match": "acquire_jobs", "do": "delay", "seconds": 600})
    job_id = serve.submit(command="true")
    pilot = run()
    pilot.says("pilot starts")
    until(lambda: serve.call("GET", "/local/faults")["rules"][0]["met"], what="acquire in flight")
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < 1
    assert serve.status(job_id)["state"] == "activated"


def test_a_job_that_comes_with_a_late_answer_is_failed_as_preempted(serve, run):
    serve.faults({"match": "acquire_jobs", "do": "late", "seconds": 3})
    job_id = serve.submit(command="true")
    pilot = run(environment={"PILOT_LATE_ANSWER": "10"})
    until(lambda: serve.status(job_id)["state"] == "sent", what="acquire in flight")
    pilot.signal(signal.SIGTERM)
    assert pilot.wait() == 0
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1379), dump(status)
    assert len(serve.calls("acquire_jobs")) == 1
    assert len(serve.finals(job_id)) == 1
    assert "payload started" not in pilot.log.read_text()


@pytest.mark.parametrize("in_pod", [False, True])
def test_a_payload_that_ignores_term_is_killed_and_reported_inside_the_grace(serve, run, in_pod):
    grace = 6
    job_id = serve.submit(command="trap '' TERM; echo began; while :; do sleep 0.1; done")
    environment = {"PILOT_GRACE": str(grace), "PILOT_IN_POD": "yes" if in_pod else "no"}
    pilot = run(environment=environment)
    pilot.says("payload started")
    children = psutil.Process(pilot.process.pid).children(recursive=True)
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < grace - 0.2 * grace
    assert psutil.wait_procs(children, 1)[1] == []
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1379 if in_pod else 1201)
    assert status["log"], "the log was saved"
    assert len(serve.finals(job_id)) == 1


def test_a_second_term_changes_nothing(serve, run):
    job_id = serve.submit(command="trap '' TERM; while :; do sleep 0.1; done")
    pilot = run(environment={"PILOT_GRACE": "5"})
    pilot.says("payload started")
    pilot.signal(signal.SIGTERM)
    pilot.says("stopping the payload")
    pilot.signal(signal.SIGTERM)
    assert pilot.wait() == 0
    assert len(serve.finals(job_id)) == 1
    assert "Traceback" not in pilot.errors.read_text()


def test_a_stop_during_a_slow_transfer_is_obeyed_and_told(serve, run, tmp_path):
    serve.faults({"match": "/store/", "do": "delay", "seconds": 600})
    job_id = serve.submit(command="true", inputs=[{"name": "in", "url": f"{serve.url}/store/slow"}])
    pilot = run(environment={"PILOT_GRACE": "6"})
    until(lambda: serve.call("GET", "/local/faults")["rules"][0]["met"], what="transfer in flight")
    serve.faults()
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < 5
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)


def test_a_hanging_heartbeat_does_not_hold_the_final_of_a_stop(serve, run):
    serve.faults({"match": "update_job", "do": "delay", "seconds": 600, "nth": 3, "state": None})
    job_id = serve.submit(command="echo began; sleep 600")
    pilot = run(environment={"PILOT_GRACE": "6", "PILOT_HEARTBEAT": "0.2"})
    until(lambda: serve.call("GET", "/local/faults")["rules"][0]["met"] >= 3, what="heartbeat in flight")
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < 5
    assert serve.ended(job_id)["pilot_error_code"] == 1201


def test_a_job_that_the_server_kills_is_ended_and_reported(serve, run):
    job_id = serve.submit(command="echo began; sleep 600")
    pilot = run("--max-jobs", 1, environment={"PILOT_HEARTBEAT": "0.2"})
    # a job that the server does not know to run yet is taken out of its table at once, and without a final
    until(lambda: serve.status(job_id)["state"] == "running", what="running")
    serve.call(
        "POST", "/api/v1/job/kill", data=json.dumps({"job_ids": [job_id]}), headers={"Content-Type": "application/json"}
    )
    assert pilot.wait() == 0
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("cancelled", 1144), dump(status)
    assert status["log"]


def test_a_kill_reaches_a_job_in_its_stage_in(serve, run):
    serve.faults({"match": "/store/", "do": "delay", "seconds": 600})
    job_id = serve.submit(command="true", inputs=[{"name": "in", "url": f"{serve.url}/store/slow"}])
    pilot = run("--max-jobs", 1, environment={"PILOT_HEARTBEAT": "0.2"})
    until(lambda: len(serve.calls("update_job", job_id)) >= 2, what="heartbeat during stage-in")
    serve.faults()
    serve.call(
        "POST", "/api/v1/job/kill", data=json.dumps({"job_ids": [job_id]}), headers={"Content-Type": "application/json"}
    )
    assert pilot.wait() == 0
    assert serve.ended(job_id)["state"] == "cancelled", (
        "the server takes a job that does not run out of its table at once"
    )
    last = json.loads(serve.calls("update_job", job_id)[-1]["body"])
    assert (last["job_status"], last["pilot_error_code"]) == ("failed", 1144)


def test_the_pilot_leaves_when_no_job_comes_in_the_idle_time(serve, run):
    pilot = run("--idle", 0.3)
    assert pilot.wait() == 0
    assert "no more jobs" in pilot.log.read_text()


def test_the_pilots_own_deadline_ends_the_payload(serve, run):
    job_id = serve.submit(command="sleep 600")
    pilot = run(environment={"PILOT_DEADLINE": "2"})
    assert pilot.wait() == 0
    assert serve.ended(job_id)["pilot_error_code"] == 1213
