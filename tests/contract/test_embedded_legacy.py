"""The calls about points from before v1, in the shapes of hpo-contract.md 10.7 (E2, E7c, E9, E11)."""

import json

import pytest

from tests.contract.embedded_client import running
from tests.contract.embedded_studies import Task, study


@pytest.fixture
def client(tmp_path):
    with running(tmp_path, legacy_events=True) as client:
        yield client


def form(client, call, **fields):
    answer = client.send("POST", f"/server/panda/{call}", data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def acquired(client, job, **more):
    told = form(client, "getEventRanges", pandaID=job.id, jobsetID=0, taskID=job.task.id, **more)
    assert told["StatusCode"] == 0
    return told["eventRanges"]


def test_points_are_given_and_closed(client):
    task = Task(client, study(3))
    job = task.job()
    first, second = acquired(client, job, nRanges=2)
    name = f"{task.id}-{job.id}-0-1-5"
    assert first == {"eventRangeID": name, "startEvent": 1, "lastEvent": 1, "LFN": None, "GUID": None, "scope": None}
    done = [{"eventRangeID": name, "eventStatus": "finished"}]
    told = form(client, "updateEventRanges", eventRanges=json.dumps(done), version=1)
    assert told == {"StatusCode": 0, "Returns": [True], "Command": {str(job.id): None}}
    told = form(client, "updateEventRange", eventRangeID=second["eventRangeID"], eventStatus="finished")
    assert told["Returns"] == [True]
    ids = json.dumps([{"task_id": task.id, "panda_id": job.id}])
    known = form(client, "get_events_status", ids=ids)[str(job.id)]
    assert [one["status"] for one in known.values()] == ["finished", "finished"]
    assert [one["startEvent"] for one in acquired(client, job)] == [3]


def test_a_segment_is_asked_for_by_its_number(client):
    job = Task(client, study(2, segments=["a", "b"])).job()
    assert len(acquired(client, job, nRanges=5, segment_id=1)) == 2
    assert {one["parameters"][0] for one in job.task.known.values()} == {1}


def test_checkpoints_are_kept_and_removed(client):
    answer = client.send("POST", "/server/panda/put_checkpoint", files={"file": ("5_1", b"tar")})
    assert answer.json()["status"] is True, answer.text
    assert client.send("GET", "/cache/hpo_cp_5_1").content == b"tar"
    assert form(client, "delete_checkpoint", task_id="5", sub_id="1")["status"] is True
    assert client.send("GET", "/cache/hpo_cp_5_1").status_code == 404
    answer = client.send("POST", "/server/panda/put_checkpoint", files={"file": ("5_1_2", b"tar")})
    assert answer.json()["status"] is False


def test_the_older_relay_answers_with_a_pair(client):
    task = Task(client, study(1))
    task.job().take()
    arguments = json.dumps({"workload_id": task.id, "request_id": None, "id": "1", "loss": 0.5})
    told = form(client, "relay_idds_command", command_name="update_hyperparameter", kwargs=arguments)
    assert told == [True, {"message": "update successfully", "status": 0}]
    assert form(client, "relay_idds_command", command_name="no_such")[0] is False


def test_what_is_no_call_is_refused(client):
    told = form(client, "getEventRanges", pandaID="x", jobsetID=0)
    assert told["StatusCode"] == 30
    assert form(client, "updateEventRanges", eventRanges="[")["StatusCode"] == 30
    assert client.send("POST", "/server/panda/getJob", data={}).status_code == 403


def test_strangers_get_no_points(tmp_path):
    with running(tmp_path, legacy_events=True, auth="required") as client:
        told = form(client, "getEventRanges", pandaID=1, jobsetID=0, taskID=1)
    assert told["StatusCode"] == 60


def test_a_server_of_today_forbids_them(tmp_path):
    with running(tmp_path) as client:
        answer = client.send("POST", "/server/panda/getEventRanges", data={"pandaID": 1})
    assert (answer.status_code, answer.text) == (403, "ERROR : method getEventRanges is forbidden")
