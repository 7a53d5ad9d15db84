"""Event ranges: who gets which, what is stored of them, and what becomes of their job."""

import json

import pytest

from tests.contract.embedded_client import running, until

DATABASE_ERROR = {"success": False, "message": "database error in the PanDA server", "data": None}


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def acquired(client, **definition):
    """A job with its ranges: four of them unless told otherwise, two events each."""
    job = client.submit(**{"events": {"count": 8, "per_range": 2}, **definition})
    assert [one["PandaID"] for one in client.acquire()] == [job]
    return job, ranges(client, job)


def ranges(client, job, **fields):
    told = client.call("event/acquire_event_ranges", job_id=job, jobset_id=fields.pop("jobset", job), **fields)
    return [one["eventRangeID"] for one in told["data"]]


def tell(client, version, *reports):
    return client.call("event/update_event_ranges", event_ranges=json.dumps(reports), version=version)


def done(range_id, status="finished", **more):
    return {"eventRangeID": range_id, "eventStatus": status, **more}


def statuses(client, job, task=None):
    pairs = json.dumps([{"task_id": task or job, "panda_id": job}])
    answer = client.send("GET", "/api/v1/event/get_event_range_statuses", params={"job_task_ids": pairs}).json()
    return {key: one["status"] for key, one in answer["data"].get(str(job), {}).items()}


def test_an_update_is_answered_as_it_was_meant(client):
    job, (first, second, third, fourth) = acquired(client)
    told = tell(client, 1, done(first), done(second, "running"), done(third, "wat"), done(fourth, "failed"))
    assert told["data"] == {"Returns": [True, None, False, True], "Commands": {str(job): None}}
    assert list(statuses(client, job).values()) == ["finished", "sent", "sent", "failed"]


def test_version_0_gets_both_as_text(client):
    job, (first, *_) = acquired(client)
    assert tell(client, 0, done(first))["data"] == {"Returns": "[true]", "Commands": json.dumps({str(job): None})}


def test_as_broken_as_1_0_4_it_is_stored_all_the_same(tmp_path):
    with running(tmp_path, as_broken_as_1_0_4=True) as client:
        job, (first, *_) = acquired(client)
        body = {"event_ranges": json.dumps([done(first)]), "version": 1}
        answer = client.send("POST", "/api/v1/event/update_event_ranges", json=body)
        assert (answer.status_code, answer.text) == (500, "unhashable type: 'list'")
        assert statuses(client, job)[first] == "finished"


@pytest.mark.parametrize("bad", [{"errorDiag": "x" * 501}, {"errorCode": "abc"}])
def test_one_report_that_cannot_be_stored_undoes_them_all_though_the_answer_is_true(client, bad):
    job, (first, second, *_) = acquired(client)
    assert tell(client, 1, done(first), done(second, "failed", **bad))["data"]["Returns"] == [True, True]
    assert set(statuses(client, job).values()) == {"sent"}


def test_fatal_renames_a_failed_range_and_nothing_changes_a_finished_one(client):
    job, (first, second, *_) = acquired(client)
    tell(client, 1, done(first), done(second, "failed"))
    told = tell(client, 1, done(first, "failed"), done(first, "fatal"), done(second), done(second, "fatal"))
    assert told["data"]["Returns"] == [True] * 4
    renamed = second.removesuffix("-3") + "-1"
    assert {first: "finished", renamed: "failed"}.items() <= statuses(client, job).items()


def test_a_zip_file_needs_its_storage(client):
    _, (first, second, *_) = acquired(client)
    told = tell(
        client,
        1,
        {"zipFile": {"lfn": "a.zip"}, "eventRanges": [done(first)]},
        {"zipFile": {"lfn": "a.zip", "objstoreID": 7}, "eventRanges": [done(second)]},
    )
    assert told["data"]["Returns"] == [False, True]


@pytest.mark.parametrize("text", ["[{", "{}", "7", '"x"'])
def test_a_text_that_is_no_list_is_a_database_error(client, text):
    assert client.call("event/update_event_ranges", event_ranges=text) == DATABASE_ERROR


def test_one_range_at_a_time(client):
    job, (first, *_) = acquired(client)
    skipped = client.call("event/update_single_event_range", event_range_id=first, event_range_status="running")
    assert skipped == {"success": None, "message": "", "data": {"Command": "{}"}}
    never = first.replace(f"-{job * 100}-1-", f"-{job * 100}-999-")
    told = client.call("event/update_single_event_range", event_range_id=never, event_range_status="finished")
    assert told["success"] is True
    refused = client.call(
        "event/update_single_event_range", event_range_id=first, event_range_status="finished", cpu_consumption_time=12
    )
    assert refused["message"] == "Type error: 'cpu_consumption_time' must be of type float, got int."


def test_ranges_run_out(client):
    job, (first, *_) = acquired(client)
    assert ranges(client, job) == []
    assert first == f"{job}-{job}-{job * 100}-1-3"


def test_statuses_need_the_right_keys(client):
    path = "/api/v1/event/get_event_range_statuses"
    for text in ('[{"task_id": 1, "job_id": 1}]', "[{", '[{"task_id": [], "panda_id": 1}]'):
        assert client.send("GET", path, params={"job_task_ids": text}).json() == DATABASE_ERROR
    unknown = client.send("GET", path, params={"job_task_ids": '[{"task_id": 1, "panda_id": 99}]'}).json()
    assert unknown["data"] == {}


def test_a_job_that_leaves_ranges_ends_in_merging_and_a_new_one_gets_them(client):
    job, (first, second, *_) = acquired(client, maxAttempt=5)
    tell(client, 1, done(first), done(second, "fatal"))
    client.finish(job)
    until(lambda: client.state(job) == "merging")
    told = client.status(job)
    assert client.update(job, "running")["command"] == "tobekilled"
    (again,) = client.acquire()
    assert (again["PandaID"], again["attemptNr"], again["taskID"]) == (told["retry"], 2, job)
    left = ranges(client, again["PandaID"], jobset=job)
    assert left == [f"{job}-{again['PandaID']}-{job * 100}-{process}-2" for process in (5, 7)]
    tell(client, 1, *map(done, left))
    client.finish(again["PandaID"])
    assert client.ended(again["PandaID"]) == "finished"


def test_a_job_that_finished_nothing_fails(client):
    job, _ = acquired(client)
    client.update(job, "failed", pilot_error_code=1305)
    assert client.ended(job) == "failed"


def test_events_are_kept_over_a_restart(tmp_path):
    with running(tmp_path) as client:
        job, (first, *_) = acquired(client)
        tell(client, 1, done(first))
    with running(tmp_path) as client:
        assert statuses(client, job)[first] == "finished"
        assert client.status(job)["events"] == {"finished": 1, "sent": 3}


@pytest.mark.parametrize("events", [{}, {"count": 0}, {"count": 10**7}, {"count": 1, "x": 1}, [], "x"])
def test_bad_events_are_refused_with_their_name(client, events):
    answer = client.send("POST", "/local/jobs", json={"definition": {"command": "true", "events": events}})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("events")
