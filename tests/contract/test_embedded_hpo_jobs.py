"""The jobs of studies on the embedded server: what they ask for, when they are made (hpo-contract.md 3.3, 3.4, 4.2)."""

import re

import pytest
import requests

from pilot.embedded.server import EmbeddedServer
from tests.contract.embedded_client import Client, running
from tests.contract.embedded_studies import Task, grid, study


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def test_a_job_asks_for_what_the_study_says(client):
    evaluation = {
        "exec": "python3 'my script.py' --url http://x/?a=1&b=2 | tee log",
        "metrics": "m.tgz",
        "image": "hub/x:1",
        "timeout_seconds": 90,
        "cores": 2,
        "gpus": 1,
    }
    data = {"name": "a.h5", "url": f"{client.url}/store/a.h5", "size": 3, "checksum": None}
    posted = study(2, evaluation=evaluation, checkpoint={"save": ["ckpt", "b"], "interval_seconds": 90})
    task = Task(client, {**posted, "points_per_job": 7}, archive="jobO.1.tar", inputs=[data])
    job = task.job()
    given = job.definition
    assert (given["isHPO"], given["taskID"], given["container_name"]) == ("True", task.id, "hub/x:1")
    assert given["transformation"] == f"{client.url}/cache/runHPO-00-00-01"
    assert re.fullmatch(re.escape(client.url) + r"/studies/[\w-]{22}/points", given["progressUrl"])
    assert (given["pointTimeout"], given["coreCount"], given["gpus"]) == (90, 2, 1)
    assert given["allowNoOutput"] in given["outFiles"].split(",")
    expected = {
        "-a": "jobO.1.tar",
        "--outMetricsFile": f"{given['allowNoOutput']}^m.tgz",
        "--inMap": "{'IN_DATA': ['a.h5']}",
        "--writeInputToTxt": "IN_DATA:input_ds.json",
        "--checkPointToSave": "ckpt,b",
        "--checkPointInterval": "1.500000",
        "--maxLoopCount": "7",
        **dict.fromkeys(("--sourceURL", "--pandaURL", "--iddsURL"), client.url),
    }
    assert expected.items() <= job.arguments.items()
    assert "&" not in job.arguments["-p"]


def test_losses_are_reported_under_the_key_of_the_study_and_no_other(client):
    task = Task(client, study(1))
    job = task.job()
    url, (point,) = job.definition["progressUrl"], job.take()
    assert Task(client, study(1, study="another")).job().definition["progressUrl"] != url
    body = {"steps": [{"step": 1, "loss": 0.5}]}
    for told, status in (
        (url, 200),
        (url[:-8] + "x/points", 404),
        (f"{client.url}/studies/{task.id}/points", 404),
        (f"{client.url}/local/studies/{task.id}/points", 401),
    ):
        answer = requests.post(f"{told}/{point}/progress", json=body, timeout=10)
        assert answer.status_code == status, told
    assert [one["loss"] for one in task.point(point)["progress"]] == [0.5]
    assert requests.post(f"{url}/{point}/progress", json={"steps": 1}, timeout=10).status_code == 400


def test_a_job_that_waited_for_the_next_life_names_its_address(tmp_path):
    with running(tmp_path) as client:
        Task(client, study(1, evaluation={"exec": "true", "memory_mib": 900}))
        assert client.acquire(memory=100) == []  # it is made, and too large for this pilot
    with EmbeddedServer(tmp_path) as server:
        second = Client(server.url.replace("127.0.0.1", "localhost"))
        (given,) = second.acquire()
        second.session.close()
    assert given["progressUrl"].startswith(f"{second.url}/studies/")
    assert f"--iddsURL {second.url}" in given["jobPars"]
    assert client.url not in str(given)


def test_as_many_jobs_are_made_as_there_are_points_for_at_most(client):
    task = Task(client, grid(3, parallel_jobs=2))
    first = task.job()
    assert first.take(3) == ["1", "2", "3"]
    assert client.acquire() == []  # each point has its job
    first.end("failed", pilot_error_code=1201)
    second = task.job()
    assert second.take() == ["1"]
    third = task.job()
    assert third.take() == ["2"]
    assert client.acquire() == []  # two at most
    assert task.status["jobs"] == [first.id, second.id, third.id]


def test_a_study_whose_jobs_all_fail_is_given_up(client):
    task = Task(client, study(1))
    for _ in range(20):
        task.job().end("failed", pilot_error_code=1360, pilot_error_diag="no such image")
    assert client.acquire() == []
    assert task.status["state"] == "failed"
    assert task.status["why"].startswith("20 jobs have failed, the last one, ")
    assert task.status["why"].endswith(": no such image")


@pytest.mark.parametrize(
    ("endings", "state"), [(("_0", "_12"), "finished"), ((), "finished"), (("_x",), "failed"), (("",), "finished")]
)
def test_files_with_a_number_behind_a_declared_output_are_outputs(client, endings, state):
    job = Task(client, study(1, evaluation={"exec": "true", "metrics": "m"})).job()
    outputs = [job.definition["allowNoOutput"] + ending for ending in endings]
    assert job.end(job_output_report=client.report(job.id, *outputs)) == state
