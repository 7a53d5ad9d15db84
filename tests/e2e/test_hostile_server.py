"""Commands, documents and answers that would end a careless pilot: it beats on, and the job has its one final."""

import json
import signal
import subprocess

import pytest

from tests.lab import until

BEAT = {"PILOT_HEARTBEAT": "0.3", "PILOT_DEBUG_HEARTBEAT": "0.3"}
WAIT = "touch ready; while [ ! -e done ]; do sleep 0.1; done"
DEEP_TREE = """python3 -c "
import os
for _ in range(1500):
    os.mkdir('d')
    os.chdir('d')
"; """
ODD_NAME = """python3 -c "
import ctypes, time
ctypes.CDLL(None).prctl(15, bytes([111, 100, 100, 255]), 0, 0, 0)
open('ready', 'w').close()
while not __import__('os').path.exists('done'): time.sleep(0.1)
" """
DEEP = "[" * 50_000 + "]" * 50_000


@pytest.fixture(autouse=True)
def tidy(tmp_path):
    """Removes deep trees, which pytest's own way cannot; set up before the pilots, and so done after them."""
    yield
    subprocess.run(["rm", "-rf", *tmp_path.glob("work*")], check=True)


def command(serve, job_id, text):
    body = json.dumps({"job_id": job_id, "command": text})
    serve.call("POST", "/api/v1/job/set_command", data=body, headers={"Content-Type": "application/json"})


def updates(serve, job_id):
    return [json.loads(one["body"]) for one in serve.calls("update_job", job_id)]


def shown(serve, job_id):
    return [one["stdout"] for one in updates(serve, job_id) if one.get("stdout")]


def final(serve, job_id):
    (found,) = [one for one in updates(serve, job_id) if one["job_status"] in ("finished", "failed")]
    return found


@pytest.mark.parametrize(
    ("before", "during", "look", "answer"),
    [
        (DEEP_TREE, WAIT, "debug", "["),
        (DEEP_TREE, WAIT, "du", "KiB in"),
        ("", WAIT, "tail a\0b", "not possible"),
        ("", WAIT, "tail " + "x" * 240, "No such file"),
        ("mkdir s; cd s; ", "touch ../ready; while [ ! -e ../done ]; do sleep 0.1; done", "tail s", "a directory"),
        ("mkfifo pipe; ", WAIT, "tail pipe", "FIFO"),
        ("mkdir e; ", WAIT, "ls e", "nothing to show"),
        ("touch \"$(printf 'a\\377')\"; ", WAIT, "ls", "a\\udcff"),
        ("", ODD_NAME, "ps", "odd\\udcff"),
        ("mv ../work ../w2; ln -s / ../work; ", WAIT, "tail etc/hostname", "No such file"),
    ],
    ids=["debug", "du", "NUL", "long", "directory", "FIFO", "empty", "name", "process", "link"],
)
def test_a_look_at_whatever_a_payload_leaves_is_answered_and_the_job_finishes(serve, run, before, during, look, answer):
    job_id = serve.submit(command=f"{before}{during}; rm -rf d")
    pilot = run("--max-jobs", 1, environment=BEAT)
    (work,) = until(lambda: [one.parent for one in pilot.work.glob("job-*/w*/ready")], what="the payload's files")
    work = next(one for one in work.parent.glob("w*") if not one.is_symlink())
    command(serve, job_id, look)
    until(lambda: any(answer in one for one in shown(serve, job_id)), what=answer)
    count = len(updates(serve, job_id))
    until(lambda: len(updates(serve, job_id)) > count + 2, what="heartbeats after that")
    (work / "done").touch()
    assert pilot.wait() == 0
    assert serve.ended(job_id)["state"] == "finished"
    assert "Traceback" not in pilot.log.read_text() + pilot.errors.read_text()


BAD_QUEUES = {
    "deep": DEEP,
    "Infinity": '{"nickname": "LOCAL", "timefloor": Infinity}',
    "1e999": '{"nickname": "LOCAL", "maxwdir": 1e999}',
    "a long number": '{"nickname": "LOCAL", "maxtime": %s}' % ("9" * 5000),
    "a list": '{"nickname": ["LOCAL"]}',
    "a path": '{"nickname": "../../LOCAL"}',
    "no object": '"LOCAL"',
    "no JSON": "<html>",
}


@pytest.mark.parametrize("text", BAD_QUEUES.values(), ids=BAD_QUEUES.keys())
def test_queue_data_of_a_file_that_cannot_be_used_are_one_clear_line(serve, run, tmp_path, text):
    file = tmp_path / "queue.json"
    file.write_text(text)
    pilot = run("--idle", 2, environment={"PILOT_QUEUEDATA": str(file)})
    assert pilot.wait() == 64
    said = pilot.log.read_text() + pilot.errors.read_text()
    assert "Traceback" not in said
    assert all(len(line) < 1000 for line in said.splitlines())
    assert not serve.calls("acquire_jobs")


@pytest.mark.parametrize("text", [DEEP, '{"a": NaN', ""], ids=["deep", "half", "nothing"])
def test_queue_data_of_a_server_that_cannot_be_read_are_asked_for_again(serve, run, text):
    serve.faults({"match": "schedconfig", "do": "status", "status": 200, "body": text, "count": 2})
    job_id = serve.submit(command="true")
    assert run("--max-jobs", 1, "--idle", 20).wait() == 0
    assert serve.ended(job_id)["state"] == "finished"


def test_queue_data_of_a_server_that_never_can_be_read_end_the_pilot_with_the_reason(serve, run):
    serve.faults({"match": "schedconfig", "do": "status", "status": 200, "body": DEEP, "count": None})
    pilot = run("--idle", 2)
    assert pilot.wait() == 64
    said = pilot.log.read_text() + pilot.errors.read_text()
    assert "nested deeper" in said
    assert "Traceback" not in said


def test_a_storage_of_others_that_cannot_be_read_keeps_nobody_from_working(serve, run, tmp_path):
    storages = serve.call("GET", "/cache/ddmendpoints.json")
    file = tmp_path / "storages.json"
    file.write_text(json.dumps({**storages, "ELSEWHERE": {"arprotocols": {"pr": 17, "pw": [{}]}}}))
    job_id = serve.submit(command="echo x > out.txt", outputs=["out.txt"])
    pilot = run("--max-jobs", 1, environment={"PILOT_STORAGEDATA": str(file)})
    assert pilot.wait() == 0
    assert serve.ended(job_id)["state"] == "finished"
    assert "ELSEWHERE" in pilot.log.read_text()


ALREADY_DONE = '{"success": true, "message": "", "data": {"StatusCode": 0, "command": "alreadydone"}}'


@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_job_whose_end_the_server_has_already_is_ended_and_stores_nothing(serve, run, state):
    serve.faults(
        {"match": "update_job", "state": state, "do": "status", "status": 200, "body": ALREADY_DONE, "count": 1}
    )
    job_id = serve.submit(command="echo some > out.txt; sleep 60", outputs=["out.txt"])
    pilot = run("--max-jobs", 1, environment={"PILOT_HEARTBEAT": "0.3"})
    assert pilot.wait() == 0
    told = final(serve, job_id)
    assert told["pilot_error_code"] == 1144
    assert "alreadydone" in told["pilot_error_diag"]
    assert "job_output_report" not in told
    assert not [one for one in serve.requests() if one["method"] == "PUT"]


def test_an_interrupt_is_not_told_as_a_term(serve, run):
    job_id = serve.submit(command=f"echo some words >&2; {WAIT}")
    pilot = run("--max-jobs", 1, environment={"PILOT_GRACE": "10"})
    until(lambda: list(pilot.work.glob("job-*/work/ready")), what="the payload")
    pilot.signal(signal.SIGINT)
    assert pilot.wait() == 0
    told = final(serve, job_id)
    assert (told["pilot_error_code"], told["job_sub_status"]) == (1208, "payload")
    assert "SIGINT" in told["pilot_error_diag"]
    assert "SIGTERM" not in told["pilot_error_diag"]
    assert "why=sigint" in pilot.log.read_text()
    assert told["exe_error_diag"] == "some words"


def test_what_a_good_payload_says_on_stderr_is_no_error(serve, run):
    job_id = serve.submit(command="echo 100 percent done >&2")
    assert run("--max-jobs", 1).wait() == 0
    told = final(serve, job_id)
    assert told["job_sub_status"] == "finished"
    assert "exe_error_diag" not in told


def test_a_failed_payload_is_told_with_its_last_words_and_where_it_failed(serve, run):
    job_id = serve.submit(command="echo bad luck >&2; exit 3", outputs=["out.txt"])
    assert run("--max-jobs", 1).wait() == 0
    told = final(serve, job_id)
    assert (told["job_sub_status"], told["exe_error_diag"]) == ("payload", "bad luck")


def test_a_job_whose_output_is_missing_failed_in_stage_out(serve, run):
    job_id = serve.submit(command="true", outputs=["out.txt"])
    assert run("--max-jobs", 1).wait() == 0
    assert final(serve, job_id)["job_sub_status"] == "stage-out"
