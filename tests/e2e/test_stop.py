"""SIGTERM at a running pilot, and kills that come from the server (issue 2, show 6)."""

import io
import json
import signal
import tarfile
import time
from datetime import datetime

import psutil
import pytest

from tests.lab import dump, until


def seconds_to_exit(pilot):
    began = time.monotonic()
    assert pilot.wait() == 0
    return time.monotonic() - began


def began(pilot):
    """Wait until the payload has said so: its traps are set then."""
    until(
        lambda: any("began" in one.read_text() for one in pilot.work.glob("pilot/job-*/payload.stdout")),
        what="the payload",
    )


def in_the_log(serve, status):
    """The files of a job's log tarball, by their names in its one folder."""
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(status["log"]))) as tar:
        return {one.name.partition("/")[2]: tar.extractfile(one).read() for one in tar if one.isfile()}


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


def test_a_second_term_shortens_what_an_ignoring_payload_has(serve, run):
    job_id = serve.submit(command="trap '' TERM; while :; do sleep 0.1; done")
    pilot = run(environment={"PILOT_GRACE": "30"})
    pilot.says("payload started")
    pilot.signal(signal.SIGTERM)
    pilot.says("stopping the payload")
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < 6, "the first TERM alone leaves the payload 10 s"
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)
    assert status["log"]
    assert len(serve.finals(job_id)) == 1
    assert "Traceback" not in pilot.errors.read_text()


def test_a_second_term_shortens_what_an_output_on_its_way_has(serve, run):
    serve.faults({"match": "/out.txt", "do": "delay", "seconds": 600})
    job_id = serve.submit(command="echo some > out.txt", outputs=["out.txt"])
    pilot = run(environment={"PILOT_GRACE": "30"})
    until(lambda: serve.call("GET", "/local/faults")["rules"][0]["met"], what="stage-out")
    pilot.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert pilot.process.poll() is None, "an output on its way has a share of the grace period"
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < 6, "the first TERM alone leaves the outputs 15 s"
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)


def test_a_payload_gets_the_soft_signal_that_was_chosen_first(serve, run):
    traps = "trap 'echo saving; exit 7' USR2; trap 'echo wrong one; exit 8' TERM"
    job_id = serve.submit(command=f"{traps}; echo began; while :; do sleep 0.1; done")
    pilot = run(environment={"PILOT_GRACE": "30", "PILOT_SOFT_SIGNAL": "SIGUSR2"})
    began(pilot)
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < 5
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"], status["exit_code"]) == ("failed", 1201, 7), dump(status)
    assert in_the_log(serve, status)["payload.stdout"] == b"began\nsaving\n"


@pytest.mark.parametrize("asked_by", ["setting", "queue", "nobody"])
def test_what_a_stopped_payload_has_left_is_saved_in_its_log_where_that_is_asked_for(serve, run, asked_by):
    if asked_by == "queue":
        serve.call("POST", "/local/queues/LOCAL", json={"catchall": "no_token_renewal,save_stopped"})
    command = "echo half > out.txt; mkdir net; echo state > net/last.ckpt; echo other > scratch; echo began; sleep 600"
    job_id = serve.submit(command=command, outputs=["out.txt", "never.txt"])
    setting = {"PILOT_SAVE_STOPPED": "yes"} if asked_by == "setting" else {}
    pilot = run(environment={"PILOT_GRACE": "30", "PILOT_CHECKPOINTS": "*.ckpt,net/*.ckpt", **setting})
    began(pilot)
    pilot.signal(signal.SIGTERM)
    assert seconds_to_exit(pilot) < 10
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)
    saved = {name: content for name, content in in_the_log(serve, status).items() if name.startswith("saved/")}
    expected = {"saved/out.txt": b"half\n", "saved/net/last.ckpt": b"state\n"}
    assert saved == ({} if asked_by == "nobody" else expected)
    stored = [one.name for one in (serve.data / "store").rglob("*") if one.is_file()]
    assert stored == [status["log"].rpartition("/")[2]], "nothing but the log lies at the outputs' destination"


def test_what_a_payload_has_left_that_failed_by_itself_is_not_saved(serve, run):
    job_id = serve.submit(command="echo half > out.txt; exit 3", outputs=["out.txt"])
    assert run(environment={"PILOT_SAVE_STOPPED": "yes", "PILOT_CHECKPOINTS": "*"}).wait() == 0
    assert not any(name.startswith("saved/") for name in in_the_log(serve, serve.ended(job_id)))


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
    until(lambda: serve.call("GET", "/local/faults")["rules"][0]["met"], what="transfer in flight")
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
