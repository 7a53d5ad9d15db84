"""How a job moves through its states: panda-protocol.md 5.3 with the live corrections, over HTTP."""

import json

import pytest

from pilot.embedded.adder import Limits
from tests.contract.embedded_client import entry, running, until

KILLED = {"StatusCode": 0, "command": "tobekilled"}
DONE = {"StatusCode": 0, "command": "alreadydone"}
NORMAL = {"StatusCode": 0, "command": "NULL"}
BROKEN = {"StatusCode": 30}


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


@pytest.fixture
def slow(tmp_path):
    """A client of a server whose Adder never comes."""
    with running(tmp_path, adder_delay_s=3600) as client:
        yield client


def test_a_job_goes_its_whole_way(client):
    job = client.submit(outputs=["a.txt"])
    assert client.state(job) == "activated"
    client.acquire()
    assert client.state(job) == "sent"
    for status in ("starting", "running"):
        assert client.update(job, status, attempt_nr=1) == NORMAL
        assert client.state(job) == status
    assert client.finish(job, job_output_report=client.report(job, "a.txt")) == NORMAL
    assert client.ended(job) == "finished"


@pytest.mark.parametrize(
    ("first", "second", "state", "answer"),
    [
        ("running", "starting", "running", NORMAL),
        ("holding", "running", "holding", NORMAL),
        ("holding", "starting", "holding", NORMAL),
        ("holding", "holding", "holding", NORMAL),
        ("holding", "transferring", "holding", NORMAL),
        ("holding", "finished", "holding", NORMAL),
        ("transferring", "running", "transferring", NORMAL),
        ("transferring", "starting", "transferring", NORMAL),
        ("transferring", "finished", "holding", NORMAL),
        ("transferring", "failed", "holding", NORMAL),
        ("finished", "finished", "holding", DONE),
        ("failed", "finished", "holding", DONE),
        ("finished", "failed", "holding", DONE),
        ("finished", "running", "holding", NORMAL),
        ("finished", "holding", "holding", NORMAL),
    ],
)
def test_one_status_after_another(slow, first, second, state, answer):
    job = slow.running()
    assert slow.update(job, first) == NORMAL
    assert slow.update(job, second) == answer
    assert slow.state(job) == state


def test_a_job_may_go_straight_from_sent_to_finished(client):
    job = client.submit()
    client.acquire()
    assert client.finish(job) == NORMAL
    assert client.ended(job) == "finished"


def test_a_final_after_the_verdict_is_to_be_killed(client):
    job = client.running()
    client.finish(job)
    assert client.ended(job) == "finished"
    assert client.finish(job) == KILLED
    assert client.update(job, "failed") == KILLED
    assert client.state(job) == "finished"


def test_the_first_of_two_finals_counts(slow):
    job = slow.running()
    slow.update(job, "failed", pilot_error_code=1305, pilot_error_diag="first")
    slow.finish(job, pilot_error_diag="second")
    assert slow.status(job)["pilot_error_diag"] == "first"


def test_a_wrong_attempt_is_to_be_killed_and_stores_nothing(client):
    job = client.running()
    assert client.update(job, "failed", attempt_nr=2) == KILLED
    assert client.state(job) == "running"
    assert client.update(job, "running") == NORMAL


def test_another_batch_id_breaks_every_update(slow):
    job = slow.running()
    assert slow.update(job, "running", batch_id="one#1") == NORMAL
    assert slow.update(job, "running", batch_id="ONE#1") == BROKEN
    assert slow.finish(job, batch_id="two") == BROKEN
    assert slow.state(job) == "running"
    assert slow.update(job, "running", batch_id="17") == NORMAL
    assert slow.finish(job, batch_id="two") == NORMAL


@pytest.mark.parametrize("status", ["failed", "finished"])
def test_a_kill_waits_for_the_pilot_of_a_running_job(client, status):
    job = client.running()
    assert client.call("job/kill", job_ids=[job, 999])["data"] == [True, False]
    assert client.call("job/kill", job_ids=[job])["data"] == [False]
    assert client.state(job) == "running"
    assert client.update(job, "running") == KILLED
    assert client.update(job, status, job_output_report=client.report(job)) == KILLED
    assert client.ended(job) == ("cancelled" if status == "failed" else "finished")


def test_a_kill_takes_a_job_at_once_that_does_not_run(client):
    job = client.submit()
    assert client.call("job/kill", job_ids=[job])["data"] == [True]
    assert client.state(job) == "cancelled"
    assert client.acquire() == []
    assert client.update(job, "running") == KILLED


def test_a_forced_kill_takes_a_running_job_at_once(client):
    job = client.running()
    client.call("job/kill", job_ids=[job], code=9)
    assert client.state(job) == "cancelled"


def test_a_command_comes_back_until_it_is_replaced(client):
    job = client.running()
    assert client.call("job/set_command", job_id=job, command="tail x")["message"] == "command received"
    assert [client.update(job, "running")["command"] for _ in range(2)] == ["tail x", "tail x"]
    client.call("job/set_command", job_id=job, command="")
    assert client.update(job, "running") == NORMAL
    assert client.call("job/set_command", job_id=job, command="x" * 250)["success"]
    assert not client.call("job/set_command", job_id=job, command="x" * 251)["success"]


def bad_reports():
    log, out = "job.1.log.tgz", "a.txt"
    both = {out: entry(out), log: entry(log)}
    unread = "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"

    def without(key):
        return {**both, out: {name: value for name, value in both[out].items() if name != key}}

    return [
        ("not JSON", unread),
        ("", unread),
        ("{}", unread),
        (json.dumps(without("guid")), unread),
        (json.dumps(without("fsize")), unread),
        (json.dumps(without("adler32")), unread),
        (json.dumps({**both, out: {"guid": "g", "fsize": 1, "md5sum": "tooshort"}}), unread),
        (json.dumps({out: both[out]}), f"expected output {log} is missing in pilot JSON"),
        (json.dumps({log: both[log]}), f"expected output {out} is missing in pilot JSON"),
        (json.dumps({**both, "x.root": entry("x")}), "pilot produced x.root inconsistently with jobdef"),
    ]


@pytest.mark.parametrize(("report", "why"), bad_reports())
def test_the_adder_fails_a_finished_job_whose_report_is_bad(client, report, why):
    job = client.running(outputs=["a.txt"])
    client.finish(job, job_output_report=report)
    assert client.ended(job) == "failed"
    status = client.status(job)
    assert (status["pilot_error_diag"], status["error"]["code"]) == (why, 200)


def test_a_failed_job_needs_no_report_if_it_has_an_error_code(client):
    job = client.running()
    client.update(job, "failed", pilot_error_code=1305, pilot_error_diag="payload failed")
    assert client.ended(job) == "failed"
    assert client.status(job)["error"]["code"] == 0


def test_a_silent_job_fails(tmp_path):
    with running(tmp_path, limits=Limits(sent_s=0.2, heartbeat_s=0.4)) as client:
        sent, heard = client.submit(), client.submit()
        client.acquire(n_jobs=2)
        client.update(heard, "running")
        until(lambda: client.state(sent) == client.state(heard) == "failed")
        assert client.status(sent)["error"]["code"] == 102
        assert client.status(heard)["error"]["code"] == 100


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"memory": 499}, 0),
        ({"memory": 500}, 1),
        ({"disk_space": 99}, 0),
        ({"disk_space": 100}, 1),
        ({"remaining_time": 59}, 0),
        ({"remaining_time": 60}, 1),
        ({"timeout": 10}, 0),
        ({"timeout": 11}, 1),
        ({"n_jobs": 0}, 0),
        ({"node": "n" * 129}, 0),
        ({"site_name": "OTHER"}, 0),
        ({"n_jobs": 2**80, "memory": 2**80}, 1),
        ({"target_architecture": {"gpus": []}}, 1),
    ],
)
def test_only_jobs_that_fit_are_handed_out(client, asked, found):
    client.submit(memory_mib=500, disk_mib=100, walltime_s=60)
    assert len(client.acquire(**asked)) == found


def test_a_job_without_limits_fits_everywhere(client):
    client.submit()
    assert len(client.acquire(memory=1, disk_space=1, remaining_time=1)) == 1


def test_stdout_above_its_limit_is_answered_but_not_stored(client):
    job = client.running()
    for text in ("short", "x" * 2049, "nul\0"):
        assert client.update(job, "running", stdout=text) == NORMAL
    assert client.status(job)["stdout"] == "short"


@pytest.mark.parametrize(
    "fields",
    [{"pilot_error_diag": "a\0b"}, {"pilot_timing": "1" * 101}, {"scheduler_id": "s" * 129}, {"max_rss": 2**70}],
)
def test_what_the_database_refuses_is_told_in_the_status_code(client, fields):
    job = client.running()
    assert client.update(job, "running", **fields) == BROKEN
