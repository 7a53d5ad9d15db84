"""Whole jobs: `pilot run` as a process, against `pilot serve` as a process (issue 2, shows 3 to 5)."""

import io
import json
import tarfile
import zlib
from pathlib import Path

import pytest

from tests.lab import definition, dump, until


def log_members(serve, status):
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(status["log"]))) as tar:
        return {member.name.rsplit("/", 1)[1]: tar.extractfile(member).read().decode() for member in tar}


def run_one(serve, run, **job):
    job_id = serve.submit(**job)
    assert run("--max-jobs", 1).wait() == 0
    return serve.ended(job_id)


def test_a_job_goes_through_all_its_phases_to_finished(serve, run):
    words = b"one two two\n"
    job_id = serve.submit(
        name="count",
        command="echo hello; echo oops >&2; sort words.txt > sorted.txt",
        inputs=[
            {"name": "words.txt", "url": serve.store("w", words), "checksum": f"adler32:{zlib.adler32(words):08x}"}
        ],
        outputs=["sorted.txt"],
    )
    pilot = run("--max-jobs", 1)
    assert pilot.wait() == 0
    status = serve.ended(job_id)
    assert status["state"] == "finished", dump(status)
    assert [(one["call"], one["state"]) for one in status["history"]] == [
        ("acquire_jobs", "sent"), ("update_job", "starting"), ("update_job", "running"), ("update_job", "finished"),
        ("adder", "finished"),
    ]  # fmt: skip
    (output,) = status["outputs"]
    assert output["name"] == "sorted.txt"
    assert f"{zlib.adler32(serve.fetch(output['url'])):08x}" == output["adler32"]
    members = log_members(serve, status)
    assert members["payload.stdout"] == "hello\n"
    assert members["payload.stderr"] == "oops\n"
    assert "payload ended exit_code=0" in members["pilot.log"]
    assert json.loads(members["job_report.json"])["state"] == "finished"
    assert not list(pilot.work.glob("job-*")), "the job's directory is removed"


@pytest.mark.parametrize(
    ("command", "exit_code", "diag", "never"),
    [
        ("echo bad calibration >&2; exit 3", 3, "exited with 3; its last words: bad calibration", "signal"),
        ("kill -9 $$", -9, "signal 9", "exited"),
        ("exit 137", 137, "exited with 137", "signal"),
        ("kill -SEGV $$", -11, "signal 11", "memory"),
    ],
)
def test_a_failed_payload_is_told_as_the_wait_status_says(serve, run, command, exit_code, diag, never):
    status = run_one(serve, run, command=command)
    assert (status["state"], status["exit_code"]) == ("failed", exit_code)
    assert diag in status["pilot_error_diag"]
    assert never not in status["pilot_error_diag"]
    assert "memory" not in status["pilot_error_diag"]
    assert status["pilot_error_code"] == (1328 if exit_code == -11 else 1305)
    assert "pilot.log" in log_members(serve, status)


def test_a_missing_output_fails_the_job_and_is_named(serve, run):
    status = run_one(serve, run, command="touch a.txt", outputs=["a.txt", "b.txt"])
    assert (status["state"], status["pilot_error_code"], status["exit_code"]) == ("failed", 1165, 0)
    assert "b.txt" in status["pilot_error_diag"]
    assert status["outputs"] == []
    assert status["log"]


def test_an_output_that_may_be_missing_may_be_missing(serve, run):
    job_id = serve.submit_panda(
        **definition(outFiles="maybe.txt,the.log.tgz", scopeOut="test", realDatasets="test:o,test:log",
                     destinationDblock="test:o,test:log", ddmEndPointOut="LOCAL_STORE,LOCAL_STORE",
                     allowNoOutput="maybe.txt")
    )  # fmt: skip
    assert run("--max-jobs", 1).wait() == 0
    assert serve.ended(job_id)["state"] == "finished"


@pytest.mark.parametrize("trick", ["ln -s /etc/passwd out.txt", "mkfifo out.txt", "mkdir out.txt"])
def test_an_output_that_is_no_file_of_the_work_directory_is_missing(serve, run, trick):
    status = run_one(serve, run, command=trick, outputs=["out.txt"])
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1165)


def test_an_input_with_one_flipped_bit_never_reaches_the_payload(serve, run):
    content = bytearray(b"x" * 100_000)
    checksum = f"adler32:{zlib.adler32(content):08x}"
    content[5000] ^= 1
    url = serve.store("flipped", bytes(content))
    status = run_one(serve, run, command="touch ran", inputs=[{"name": "in", "url": url, "checksum": checksum}])
    assert (status["state"], status["pilot_error_code"], status["exit_code"]) == ("failed", 1171, None)
    assert "payload started" not in log_members(serve, status)["pilot.log"]


def test_an_input_that_does_not_exist_fails_the_job_at_once(serve, run):
    status = run_one(serve, run, command="true", inputs=[{"name": "in", "url": f"{serve.url}/store/none"}])
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1331)
    assert log_members(serve, status)["pilot.log"]
    assert status["seconds"]["stage_in"] < 5, "nothing was waited for"


def test_a_job_is_not_given_files_of_the_pilots_machine(serve, run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    status = run_one(serve, run, command="cat in", inputs=[{"name": "in", "url": secret.as_uri()}])
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1149)


def test_the_payload_sees_what_it_is_given_and_no_more(serve, run):
    job_id = serve.submit(
        command="env > env.txt; pwd >> env.txt", outputs=["env.txt"], environment={"FLAVOUR": "a; b $c"}
    )
    pilot = run("--max-jobs", 1, environment={"SECRET_TOKEN": "hidden", "PILOT_LABEL": "managed"})
    assert pilot.wait() == 0
    text = serve.fetch(serve.ended(job_id)["outputs"][0]["url"]).decode()
    assert "FLAVOUR=a; b $c" in text
    assert f"PANDAID={job_id}" in text
    assert "hidden" not in text
    assert "PILOT_LABEL" not in text
    assert str(pilot.work) in text.splitlines()[-1]


def test_a_walltime_limit_ends_the_payload(serve, run):
    status = run_one(serve, run, command="echo began; sleep 600", walltime_s=1)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1213)
    assert log_members(serve, status)["payload.stdout"] == "began\n"


def test_what_the_payload_leaves_running_in_its_group_is_ended(serve, run):
    status = run_one(serve, run, command="sleep 600 & echo $! > pid.txt", outputs=["pid.txt"])
    assert status["state"] == "finished"
    pid = int(serve.fetch(status["outputs"][0]["url"]))
    until(lambda: not alive(pid), what="end of the payload's child")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


HOSTILE = [
    "../../escape",
    "/tmp/escape",
    "a\nb",
    "a\x00b",
    "a;touch marker",
    "$(touch marker)",
    "`touch marker`",
    "a|b",
]


@pytest.mark.parametrize(
    "field",
    ["inFiles", "outFiles", "logFile", "scopeIn", "scopeLog", "realDatasets", "GUID", "logGUID", "ddmEndPointOut"],
)
def test_a_hostile_definition_is_refused_and_told_and_nothing_else_happens(serve, run, tmp_path, field):
    jobs = [
        serve.submit_panda(**definition(**({"inFiles": "in"} if field in ("scopeIn", "GUID") else {}), **{field: name}))
        for name in HOSTILE
    ]
    pilot = run("--max-jobs", len(jobs))
    assert pilot.wait() == 0
    for job_id in jobs:
        status = serve.ended(job_id)
        assert (status["state"], status["pilot_error_code"], status["exit_code"]) == ("failed", 1311, None), dump(
            status
        )
        assert field in status["pilot_error_diag"]
        assert len(serve.finals(job_id)) == 1
    assert "payload started" not in pilot.log.read_text()
    assert not list(tmp_path.rglob("*escape*"))
    assert not list(tmp_path.rglob("marker*"))


@pytest.mark.parametrize(
    "environment",
    [{"LD_PRELOAD": "x"}, {"A;B": "x"}, {"A": "x\ny"}, {"../A": "x"}, {"PATH": "."}, {"A": "x\x00y"}],
    ids=str,
)
def test_a_hostile_environment_is_refused(serve, run, environment):
    job_id = serve.submit_panda(**definition(environment=environment))
    assert run("--max-jobs", 1).wait() == 0
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1311)
    assert "environment" in status["pilot_error_diag"]


def test_job_parameters_are_the_payloads_text_and_nothing_elses(serve, run, tmp_path):
    pars = "; touch marker; ps -o sid= -p $$ > sid.txt; cat /proc/$$/stat > stat.txt; ls in.txt; pwd > pwd.txt"
    names = "sid.txt,pwd.txt,the.log.tgz"
    job_id = serve.submit_panda(
        **definition(transformation="true", jobPars=pars, inFiles="in.txt",
                     inputUrls={"in.txt": serve.store("i", b"x")},
                     outFiles=names, scopeOut="test,test", realDatasets="a,b,c", destinationDblock="a,b,c",
                     ddmEndPointOut="LOCAL_STORE,LOCAL_STORE,LOCAL_STORE")
    )  # fmt: skip
    pilot = run("--max-jobs", 1)
    assert pilot.wait() == 0
    status = serve.ended(job_id)
    assert status["state"] == "finished", dump(status)
    files = {one["name"]: serve.fetch(one["url"]).decode().strip() for one in status["outputs"]}
    assert log_members(serve, status)["payload.stdout"] == "in.txt\n", "it ran after stage-in"
    assert files["sid.txt"] != str(pilot.process.pid), "it ran in a session of its own"
    assert files["pwd.txt"].startswith(str(pilot.work))
    assert not list(tmp_path.glob("marker")), "and nowhere else"


def test_a_definition_beyond_measure_is_refused_and_told(serve, run):
    deep = json.loads("[" * 60 + "]" * 60)
    jobs = [
        serve.submit_panda(**definition(extra=deep)),
        serve.submit_panda(**definition(jobPars="x" * (5 << 20))),
        serve.submit_panda(**definition(extra=[1] * 100_001)),
    ]
    assert run("--max-jobs", len(jobs)).wait() == 0
    for job_id in jobs:
        assert (serve.ended(job_id)["state"], serve.status(job_id)["pilot_error_code"]) == ("failed", 1311)


def test_a_transformation_is_fetched_from_an_allowed_base_only(serve, run):
    url = serve.store("runGen-1", b'#!/bin/sh\necho "ran with $1" > out.txt\n')
    fields = {"transformation": url, "jobPars": "this", "outFiles": "out.txt,the.log.tgz", "scopeOut": "test",
              "realDatasets": "a,b", "destinationDblock": "a,b",
              "ddmEndPointOut": "LOCAL_STORE,LOCAL_STORE"}  # fmt: skip
    allowed, refused = serve.submit_panda(**definition(**fields)), serve.submit_panda(**definition(**fields))
    assert run("--max-jobs", 1, environment={"PILOT_TRANSFORM_URLS": f"{serve.url}/store/test/"}).wait() == 0
    assert run("--max-jobs", 1).wait() == 0
    status = serve.ended(allowed)
    assert serve.fetch(status["outputs"][0]["url"]) == b"ran with this\n"
    assert (serve.ended(refused)["state"], serve.status(refused)["pilot_error_code"]) == ("failed", 1149)


def test_several_jobs_in_one_pilot(serve, run):
    jobs = [serve.submit(command=f"echo {number} > n.txt", outputs=["n.txt"]) for number in range(3)]
    pilot = run("--max-jobs", 3)
    assert pilot.wait() == 0
    assert [serve.ended(job)["state"] for job in jobs] == ["finished"] * 3


def test_a_worker_is_told_to_have_started_and_finished(serve, run):
    serve.submit(command="true")
    environment = {"HARVESTER_ID": "harv", "HARVESTER_WORKER_ID": "42"}
    assert run("--max-jobs", 1, environment=environment).wait() == 0
    calls = [json.loads(one["body"]) for one in serve.calls("update_worker_status")]
    assert [(one["worker_id"], one["status"]) for one in calls] == [(42, "started"), (42, "finished")]
    (acquire,) = serve.calls("acquire_jobs")
    assert json.loads(acquire["body"])["harvester_id"] == "harv"


def test_more_jobs_are_taken_within_the_timefloor(serve, run, tmp_path):
    queue = tmp_path / "queue.json"
    queue.write_text(json.dumps({"nickname": "LOCAL", "timefloor": 5}))
    jobs = [serve.submit(command="true") for _ in range(3)]
    assert run("--idle", 0.5, environment={"PILOT_QUEUEDATA": str(queue)}).wait() == 0
    assert [serve.ended(job)["state"] for job in jobs] == ["finished"] * 3


def test_without_a_timefloor_one_job_is_taken(serve, run):
    jobs = [serve.submit(command="true") for _ in range(2)]
    assert run().wait() == 0
    assert serve.ended(jobs[0])["state"] == "finished"
    assert serve.status(jobs[1])["state"] == "activated"


def test_a_job_that_wants_gpus_is_refused_before_its_inputs_are_touched(serve, run):
    status = run_one(serve, run, command="true", gpus=2, inputs=[{"name": "in", "url": f"{serve.url}/store/none"}])
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1305)
    assert "2 GPUs" in status["pilot_error_diag"]


def test_inputs_beyond_the_queues_limit_are_refused_and_a_job_may_overwrite_it(serve, run, tmp_path):
    queue = tmp_path / "queue.json"
    queue.write_text(json.dumps({"nickname": "LOCAL", "maxinputsize": 1}))
    fields = {"inFiles": "in", "fsize": str(5 << 20), "inputUrls": {"in": f"{serve.url}/store/none"}}
    refused = serve.submit_panda(**definition(**fields))
    overwritten = serve.submit_panda(**definition(**fields, jobPars='--overwriteQueueData {"maxinputsize": 9}'))
    assert run("--max-jobs", 2, environment={"PILOT_QUEUEDATA": str(queue)}).wait() == 0
    assert serve.ended(refused)["pilot_error_code"] == 1168
    assert serve.ended(overwritten)["pilot_error_code"] == 1331
