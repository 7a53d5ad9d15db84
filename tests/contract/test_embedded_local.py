"""Submitting a job and looking at it; queue and storage data."""

import json

import pytest

from pilot.values.names import Lfn, Scope
from pilot.values.site import file_url, parse_queue, parse_storages
from tests.contract.embedded_client import running

JOB = {
    "name": "count",
    "command": "sh count.sh words.txt > counts.txt",
    "inputs": [{"name": "words.txt", "url": "http://h/words.txt", "size": 5, "checksum": "adler32:1a2b3c4d"}],
    "sandbox": [{"name": "count.sh", "url": "http://h/count.sh"}],
    "outputs": ["counts.txt"],
    "environment": {"LANG": "C"},
    "cores": 2,
    "memory_mib": 500,
    "walltime_s": 60,
    "gpus": 1,
}


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def test_our_job_becomes_a_panda_definition(client):
    job = client.submit(**JOB)
    (given,) = client.acquire()
    expected = {
        "PandaID": job,
        "inFiles": "words.txt,count.sh",
        "fsize": "5,NULL",
        "checksum": "ad:1a2b3c4d,NULL",
        "outFiles": f"counts.txt,job.{job}.log.tgz",
        "logFile": f"job.{job}.log.tgz",
        "scopeOut": f"local.{job}",
        "scopeLog": f"local.{job}",
        "ddmEndPointOut": "LOCAL_STORE,LOCAL_STORE",
        "inputUrls": {"words.txt": "http://h/words.txt", "count.sh": "http://h/count.sh"},
        "sandbox": ["count.sh"],
        "command": JOB["command"],
        "environment": {"LANG": "C"},
        "gpus": 1,
        "coreCount": 2,
        "minRamCount": 500,
        "maxWalltime": 60,
        "swRelease": "NULL",
    }
    assert {key: given[key] for key in expected} == expected
    lists = ("inFiles", "GUID", "fsize", "checksum", "scopeIn", "ddmEndPointIn", "realDatasetsIn", "prodDBlockToken")
    assert {len(given[key].split(",")) for key in lists} == {2}


def test_a_panda_definition_is_taken_as_it_is(client):
    hostile = {"jobPars": "; rm -rf /", "outFiles": "../../etc/passwd,a\nb", "attemptNr": 3, "odd": [1, {"x": None}]}
    answer = client.send("POST", "/local/jobs", json={"definition": {"panda": hostile, "queue": "Q"}})
    (given,) = client.acquire(site_name="Q")
    assert {key: given[key] for key in hostile} == hostile
    assert given["PandaID"] == answer.json()["id"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"outputs": ["../x"]}, "outputs[0]"),
        ({"outputs": ["a,b"]}, "outputs[0]"),
        ({"outputs": "a"}, "outputs"),
        ({"outputs": ["words.txt"]}, "outputs"),
        ({"comand": "x"}, "comand"),
        ({"command": ""}, "command"),
        ({"inputs": [{"name": "a", "url": "ftp://h/a"}]}, "inputs[0]"),
        ({"inputs": [{"name": "a", "url": "http://h/a", "checksum": "x"}]}, "inputs[0]"),
        ({"inputs": [{"nam": "a"}]}, "inputs[0].nam"),
        ({"environment": {"LD_PRELOAD": "x"}}, "environment"),
        ({"cores": 0}, "cores"),
        ({"walltime_s": "60"}, "walltime_s"),
        ({"queue": "a/b"}, "queue"),
    ],
)
def test_a_bad_job_is_refused_with_the_fields_name(client, change, field):
    answer = client.send("POST", "/local/jobs", json={"definition": {**JOB, **change}})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{field}:")
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"definition": 1}'])
def test_a_body_that_is_no_job_is_refused(client, body):
    answer = client.send("POST", "/local/jobs", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


def test_the_status_tells_a_jobs_story(client):
    job = client.running(**JOB)
    meta_data = json.dumps({"timing": {"stage_in": 1.5, "payload": 2.5, "stage_out": 0.5}})
    report = client.report(job, "counts.txt")
    client.finish(job, attempt_nr=1, job_output_report=report, meta_data=meta_data, pilot_timing="1|9|9|9|0|0")
    assert client.ended(job) == "finished"
    status = client.status(job)
    assert (status["id"], status["name"], status["state"], status["attempt"]) == (job, "count", "finished", 1)
    assert (status["exit_code"], status["pilot_error_code"], status["pilot_error_diag"]) == (0, 0, "")
    url = "http://store/counts.txt"
    assert status["outputs"] == [{"name": "counts.txt", "size": 3, "adler32": "00a1b2c3", "url": url}]
    assert status["log"] == f"http://store/job.{job}.log.tgz"
    assert {key: status["seconds"][key] for key in ("stage_in", "payload", "stage_out")} == {
        "stage_in": 1.5,
        "payload": 2.5,
        "stage_out": 0.5,
    }
    assert [(one["call"], one["state"]) for one in status["history"]] == [
        ("acquire_jobs", "sent"),
        ("update_job", "starting"),
        ("update_job", "running"),
        ("update_job", "finished"),
        ("adder", "finished"),
    ]


def test_the_status_of_a_new_job_has_no_exit_code(client):
    status = client.status(client.submit())
    assert (status["state"], status["exit_code"], status["log"], status["outputs"]) == ("activated", None, None, [])


def test_an_unknown_job_is_404(client):
    assert client.send("GET", "/local/jobs/77").status_code == 404


def test_jobs_are_listed(client):
    jobs = [client.submit(), client.submit()]
    assert [one["id"] for one in client.send("GET", "/local/jobs").json()["jobs"]] == jobs


def test_queue_data_are_what_the_pilot_reads(client):
    client.send("POST", "/local/jobs", json={"definition": {"command": "true", "queue": "OTHER"}})
    for name in ("LOCAL", "OTHER"):
        queue = parse_queue(name, client.send("GET", f"/cache/schedconfig/{name}.all.json").json())
        assert (queue.name, queue.online, queue.timefloor_s) == (name, True, 0)
        assert queue.astorages["write_lan"] == ("LOCAL_STORE",)
    assert client.send("GET", "/cache/schedconfig/NONE.all.json").status_code == 404


def test_storage_data_lead_to_the_store(client):
    storage = parse_storages(client.send("GET", "/cache/ddmendpoints.json").json())["LOCAL_STORE"]
    url = file_url(storage.spoken("write_lan", "w")[0], Scope("local.7"), Lfn("a.txt"))
    assert url.startswith(f"{client.url}/store/local/7/")
    assert client.session.put(url, data=b"x", timeout=10).status_code == 201
    assert [one["method"] for one in client.requests(7)] == ["PUT"]
