"""A pod as Harvester makes it: its variables, push mode, the worker's record, the last words (issue 3)."""

import json
import os
import time
from urllib.parse import urlencode

import pytest

from tests.lab import Run, definition, dump, ended_runs, until


def harvester(serve, work, **more):
    """Exactly the variables of harvester-k8s.md section 3, and PATH."""
    return {
        "PATH": os.environ["PATH"], "computingSite": "LOCAL", "pandaQueueName": "LOCAL", "resourceType": "SCORE",
        "pilotType": "PR", "pilotUrlOpt": "", "pythonOption": "--pythonversion 3", "pilotVersion": "current",
        "proxySecretPath": "/proxy/x509up", "PANDA_AUTH_ORIGIN": "", "PANDA_AUTH_DIR": "", "PANDA_AUTH_TOKEN": "",
        "PANDA_AUTH_TOKEN_KEY": "", "workerID": "4711", "HARVESTER_WORKER_ID": "4711", "HARVESTER_ID": "harv_1",
        "PANDA_JSID": "harvester-harv_1", "logs_frontend_w": f"{serve.url}/server/panda",
        "logs_frontend_r": f"{serve.url}/cache", "submit_mode": "PULL", "EXEC_DIR": "/scratch/executables",
        "TMPDIR": str(work), "HOME": str(work), "PANDA_HOSTNAME": "node-17", "K8S_JOB_ID": "grid-job-4711",
        "prodSourceLabel": "unified", "jobType": "unified", "storageRequestMiB": "2048.0", "storageLimitMiB": "2048.0",
        **more,
    }  # fmt: skip


@pytest.fixture
def pod(serve, tmp_path):
    """Starts a pilot in an environment that holds nothing but Harvester's variables."""
    with ended_runs() as started:

        def start(*arguments, **more):
            work = tmp_path / "pilotdir"
            arguments = ("--server", serve.url, *arguments)
            environment = {**harvester(serve, work, proxySecretPath=""), **more}
            started.append(Run(None, work, *arguments, environment=environment, alone=True))
            return started[-1]

        yield start


def test_every_update_carries_what_harvester_and_people_look_for(serve, pod):
    job_id = serve.submit(command="true")
    assert pod("--max-jobs", 1).wait() == 0
    assert serve.ended(job_id)["state"] == "finished"
    (acquire,) = [json.loads(one["body"]) for one in serve.calls("acquire_jobs")]
    assert (acquire["site_name"], acquire["prod_source_label"], acquire["resource_type"]) == (
        "LOCAL",
        "unified",
        "SCORE",
    )
    assert (acquire["node"], acquire["harvester_id"], acquire["worker_id"]) == ("node-17", "harv_1", 4711)
    assert acquire["disk_space"] <= 2048
    updates = [json.loads(one["body"]) for one in serve.calls("update_job", job_id)]
    for update in updates:
        assert update["batch_id"] == "grid-job-4711"
        assert update["scheduler_id"] == "harvester-harv_1"
        address, batch, kind, version = update["pilot_id"].split("|")
        assert (address, batch, kind) == (f"{serve.url}/cache/harv_1_4711_gz.out", "Kubernetes", "PR")
        assert version


def test_the_worker_is_told_first_and_last(serve, pod):
    serve.submit(command="true")
    assert pod("--max-jobs", 1).wait() == 0
    calls = [one for one in serve.requests() if "/api/v1/pilot/" in one["path"]]
    assert [json.loads(one["body"])["status"] for one in (calls[0], calls[-1])] == ["started", "finished"]
    assert {one["path"].rpartition("/")[2] for one in calls[1:3]} == {"update_worker_node", "acquire_jobs"}


@pytest.mark.parametrize("form", ["json", "keyed", "encoded"])
def test_push_mode_runs_exactly_the_job_of_the_file(serve, pod, tmp_path, form):
    pushed = serve.submit_panda(**definition(jobPars="", transformation="echo pushed"), queue="PUSHED")
    other = serve.submit(command="true")
    job = {**definition(transformation="echo pushed"), "PandaID": pushed, "attemptNr": 1}
    file = tmp_path / "pandaJobData.out"
    forms = {"json": json.dumps(job), "keyed": json.dumps({str(pushed): job}), "encoded": urlencode(job)}
    file.write_text(forms[form])
    file.chmod(0o444)
    assert pod("--job", file).wait() == 0
    assert serve.ended(pushed)["state"] == "finished", dump(serve.status(pushed))
    assert serve.status(other)["state"] == "activated"
    assert serve.calls("acquire_jobs") == []


def test_a_pushed_job_that_has_ended_meanwhile_is_not_run_again(serve, pod, tmp_path):
    pushed = serve.submit(command="true")
    assert pod("--max-jobs", 1).wait() == 0
    serve.ended(pushed)
    file = tmp_path / "pandaJobData.out"
    file.write_text(json.dumps({**definition(), "PandaID": pushed, "attemptNr": 1}))
    again = pod("--job", file)
    assert again.wait() == 0
    assert "not to be run" in again.log.read_text()
    assert len(serve.finals(pushed)) == 1


def test_another_attempt_than_the_files_is_not_run(serve, pod, tmp_path):
    pushed = serve.submit_panda(**definition())
    file = tmp_path / "pandaJobData.out"
    file.write_text(json.dumps({**definition(), "PandaID": pushed, "attemptNr": 7}))
    assert pod("--job", file).wait() == 0
    assert serve.status(pushed)["state"] == "activated"


@pytest.mark.parametrize("content", ["", "{}", "[]", "hello", "[{}, {}]", '{"PandaID": "x"}'])
def test_a_file_without_a_job_is_one_line(pod, tmp_path, content):
    file = tmp_path / "pandaJobData.out"
    file.write_text(content)
    pilot = pod("--job", file)
    assert pilot.wait() == 78
    assert len(pilot.errors.read_text().splitlines()) == 1


def test_the_last_words_are_one_line_of_json(serve, pod, tmp_path):
    words = tmp_path / "termination-log"
    words.touch()
    assert pod("--idle", 0.2, PILOT_TERMINATION_LOG=str(words)).wait() == 0
    assert json.loads(words.read_text())["exit_code"] == 0
    assert pod("--server", "http://127.0.0.1:9", "--idle", 0.2, PILOT_TERMINATION_LOG=str(words)).wait() == 64
    told = json.loads(words.read_text())
    assert (told["exit_code"], told["worker"]) == (64, "4711")
    assert "refused" in told["why"]


def test_a_probe_sees_a_living_pilot_and_a_silent_one(serve, pod):
    pilot = pod()
    until((pilot.work / "heartbeat").exists, what="a sign of life")
    alive = Run(None, pilot.work, environment={"TMPDIR": str(pilot.work)}, command=["probe", "--alive"])
    assert alive.wait() == 0, alive.errors.read_text()
    pilot.signal(15)
    assert pilot.wait() == 0
    hour_ago = time.time() - 3600
    os.utime(pilot.work / "heartbeat", (hour_ago, hour_ago))
    silent = Run(None, pilot.work, environment={"TMPDIR": str(pilot.work)}, command=["probe", "--alive"])
    assert silent.wait() == 1
    assert "sign of life" in silent.errors.read_text()


def test_site_data_of_an_earlier_life_do_when_the_server_is_slow_to_come(serve, pod):
    serve.submit(command="true")
    assert pod("--max-jobs", 1).wait() == 0
    serve.faults({"match": "/cache/", "do": "status", "status": 503, "count": None})
    job = serve.submit(command="true")
    assert pod("--max-jobs", 1, "--idle", 1).wait() == 0
    assert serve.ended(job)["state"] == "finished"


def test_a_queue_that_needs_cvmfs_takes_no_job_without_it(serve, pod, tmp_path):
    queue = tmp_path / "queue.json"
    queue.write_text(json.dumps({"nickname": "LOCAL", "is_cvmfs": True}))
    pilot = pod(QUEUEDATA_SERVER_URL=str(queue))
    assert pilot.wait() == 64
    assert "/cvmfs" in pilot.errors.read_text()
    assert serve.calls("acquire_jobs") == []
