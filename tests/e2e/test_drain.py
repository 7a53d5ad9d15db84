"""Drain: the job that runs is finished, and no other is taken; nothing is killed and nothing fails."""

import signal
import time

import pytest

from tests.lab import until

LEAVES_S = 1.0


@pytest.fixture
def busy(serve, run, tmp_path):
    """A pilot that may take three jobs, at work on the first of them; the jobs, and the file that lets it end."""
    go = tmp_path / "go"
    waits = f"echo began; until [ -e {go} ]; do sleep 0.05; done"
    jobs = [serve.submit(command=waits), *(serve.submit(command="true") for _ in range(2))]

    def start(**environment):
        pilot = run("--max-jobs", 3, environment=environment)
        pilot.says("payload started")
        return pilot

    return start, jobs, go


def finished_the_first_only(serve, pilot, jobs):
    assert pilot.wait() == 0
    assert serve.ended(jobs[0])["state"] == "finished"
    assert [serve.status(one)["state"] for one in jobs[1:]] == ["activated"] * 2
    assert len(serve.calls("acquire_jobs")) == 1
    assert "why=draining" in pilot.log.read_text()


def test_sigusr1_lets_the_job_finish_and_takes_no_other(serve, busy):
    start, jobs, go = busy
    pilot = start()
    pilot.signal(signal.SIGUSR1)
    go.touch()
    finished_the_first_only(serve, pilot, jobs)


@pytest.mark.parametrize("chosen", [False, True])
def test_a_drain_file_lets_the_job_finish_and_takes_no_other(serve, busy, tmp_path, chosen):
    start, jobs, go = busy
    pilot = start(**({"PILOT_DRAIN_FILE": str(tmp_path / "elsewhere")} if chosen else {}))
    (tmp_path / "elsewhere" if chosen else pilot.work / "drain").touch()
    go.touch()
    finished_the_first_only(serve, pilot, jobs)


def test_a_drain_file_that_is_not_the_chosen_one_drains_nothing(serve, busy, tmp_path):
    start, jobs, go = busy
    pilot = start(PILOT_DRAIN_FILE=str(tmp_path / "elsewhere"))
    (pilot.work / "drain").touch()
    go.touch()
    assert pilot.wait() == 0
    assert [serve.ended(one)["state"] for one in jobs] == ["finished"] * 3


def test_a_waiting_pilot_leaves_at_once_upon_sigusr1(serve, run):
    pilot = run()
    until(lambda: serve.calls("acquire_jobs"), what="first acquire")
    asked_to_leave = time.monotonic()
    pilot.signal(signal.SIGUSR1)
    assert pilot.wait() == 0
    assert time.monotonic() - asked_to_leave < LEAVES_S
    assert "no more jobs taken=0 why=draining" in pilot.log.read_text()


def test_a_waiting_pilot_takes_no_job_that_comes_after_the_drain_file(serve, run):
    pilot = run()
    until(lambda: serve.calls("acquire_jobs"), what="first acquire")
    (pilot.work / "drain").touch()
    until(lambda: serve.calls("acquire_jobs")[-1]["status"], what="the answer to an acquire that was in flight")
    job = serve.submit(command="true")
    assert pilot.wait() == 0
    assert serve.status(job)["state"] == "activated"


def test_where_the_drain_file_lies_already_no_job_is_asked_for(serve, run, tmp_path):
    file = tmp_path / "drain"
    file.touch()
    job = serve.submit(command="true")
    assert run(environment={"PILOT_DRAIN_FILE": str(file)}).wait() == 0
    assert serve.calls("acquire_jobs") == []
    assert serve.status(job)["state"] == "activated"


def test_a_job_that_comes_with_the_answer_in_flight_is_not_lost_by_a_drain(serve, run):
    serve.faults({"match": "acquire_jobs", "do": "late", "seconds": 1})
    jobs = [serve.submit(command="true") for _ in range(2)]
    pilot = run("--max-jobs", 2)
    until(lambda: serve.status(jobs[0])["state"] == "sent", what="acquire in flight")
    pilot.signal(signal.SIGUSR1)
    assert pilot.wait() == 0
    assert serve.ended(jobs[0])["state"] == "finished"
    assert serve.status(jobs[1])["state"] == "activated"
