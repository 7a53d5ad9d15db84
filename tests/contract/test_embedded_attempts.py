"""New attempts: which failures bring one, and what it is."""

import pytest

from pilot.embedded.adder import Limits
from tests.contract.embedded_client import running, until


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def fail(client, **fields):
    (job,) = client.acquire()
    client.update(job["PandaID"], "failed", attempt_nr=job["attemptNr"], **fields)
    assert client.ended(job["PandaID"]) == "failed"
    return job


def test_a_failed_job_comes_again_as_long_as_attempts_are_left(client):
    client.submit(maxAttempt=3)
    jobs = [fail(client, pilot_error_code=1305) for _ in range(3)]
    assert [job["attemptNr"] for job in jobs] == [1, 2, 3]
    assert len({job["PandaID"] for job in jobs}) == 3
    assert [client.status(job["PandaID"])["retry"] for job in jobs] == [jobs[1]["PandaID"], jobs[2]["PandaID"], None]
    assert client.acquire() == []
    assert not any("maxAttempt" in job for job in jobs)


def test_the_next_attempt_is_the_same_job(client):
    client.send("POST", "/local/jobs", json={"definition": {"panda": {"jobName": "n"}, "maxAttempt": 1}})
    first = fail(client)
    (second,) = client.acquire()
    told = {**second, "PandaID": first["PandaID"], "attemptNr": first["attemptNr"]}
    assert told == first


def test_a_job_that_fell_silent_comes_again(tmp_path):
    with running(tmp_path, limits=Limits(heartbeat_s=0.3)) as client:
        job = client.running(maxAttempt=2)
        assert client.ended(job) == "failed"
        assert client.status(job)["error"]["diag"] == "lost heartbeat"
        until(client.acquire)


@pytest.mark.parametrize("code", [1311, 1149, 1144])
def test_what_cannot_get_better_is_not_tried_again(client, code):
    client.submit(maxAttempt=3)
    job = fail(client, pilot_error_code=code)
    assert client.status(job["PandaID"])["retry"] is None
    assert client.acquire() == []


def test_a_killed_job_is_not_tried_again(client):
    job = client.running(maxAttempt=3)
    client.call("job/kill", job_ids=[job])
    client.update(job, "failed")
    assert client.ended(job) == "cancelled"
    assert client.acquire() == []


def test_a_finished_job_is_not_tried_again(client):
    job = client.running(maxAttempt=3)
    client.finish(job)
    assert client.ended(job) == "finished"
    assert client.acquire() == []
