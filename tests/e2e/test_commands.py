"""Commands that come with the answer to an update: each obeyed within one heartbeat (issue 3)."""

import json

import pytest

from tests.lab import until

BEAT = {"PILOT_HEARTBEAT": "0.3"}
LONG = (
    "echo first words; echo secret > hidden.txt; mkdir sub; echo deep > sub/f; while [ ! -e done ]; do sleep 0.1; done"
)


def command(serve, job_id, text):
    body = json.dumps({"job_id": job_id, "command": text})
    serve.call("POST", "/api/v1/job/set_command", data=body, headers={"Content-Type": "application/json"})


def shown(serve, job_id):
    """The texts that updates have carried in stdout."""
    return [json.loads(one["body"]).get("stdout") for one in serve.calls("update_job", job_id)]


@pytest.fixture
def running(serve, run):
    job_id = serve.submit(command=LONG)
    pilot = run("--max-jobs", 5, "--idle", 1, environment=BEAT)
    pilot.says("payload started")
    until(lambda: serve.status(job_id)["state"] == "running", what="running")
    until(lambda: list(pilot.work.glob("job-*/work/sub/f")), what="the payload's files")
    (work,) = pilot.work.glob("job-*/work")
    yield job_id, pilot, work
    if pilot.process.poll() is None and work.exists():
        (work / "done").touch()
    pilot.wait()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("tail payload.stdout", "first words"),
        ("tail hidden.txt", "secret"),
        ("ls", "hidden.txt"),
        ("ls -l sub", " f"),
        ("du", "KiB in 2 files"),
        ("ps x", "sleep"),
        ("tail ../../../../etc/passwd", "not in the work directory"),
        ("tail /etc/passwd", "not in the work directory"),
        ("ls ../..", "not in the work directory"),
        ("tail none.txt", "No such file"),
    ],
)
def test_a_look_into_the_job_comes_with_the_next_update(serve, running, text, answer):
    job_id, _, _ = running
    command(serve, job_id, text)
    until(lambda: any(answer in (one or "") for one in shown(serve, job_id)), what=answer)
    assert not any("root:" in (one or "") for one in shown(serve, job_id))
    assert all(len((one or "").encode()) <= 2048 for one in shown(serve, job_id))


def test_a_link_out_of_the_work_directory_is_not_followed(serve, running):
    job_id, _, work = running
    (work / "out").symlink_to("/etc")
    command(serve, job_id, "tail out/passwd")
    until(lambda: any("not in the work directory" in (one or "") for one in shown(serve, job_id)), what="the refusal")


def test_softkill_finishes_this_job_and_takes_no_more(serve, running):
    job_id, pilot, work = running
    waiting = serve.submit(command="true")
    command(serve, job_id, "softkill")
    pilot.says("no more jobs to be taken")
    (work / "done").touch()
    assert pilot.wait() == 0
    assert serve.ended(job_id)["state"] == "finished"
    assert serve.status(waiting)["state"] == "activated"


def test_debug_mode_brings_the_tail_of_what_was_written_last(serve, running):
    job_id, _, work = running
    command(serve, job_id, "debug")
    (work / "newest.log").write_text("latest news\n")
    until(lambda: any("latest news" in (one or "") for one in shown(serve, job_id)), what="debug tail")
    command(serve, job_id, "debugoff")
    until(lambda: shown(serve, job_id)[-1] is None, what="end of debug mode")


def test_commands_may_come_together_and_a_kill_wins(serve, running):
    job_id, pilot, _ = running
    command(serve, job_id, "debug,tobekilled")
    assert pilot.wait() == 0
    assert serve.ended(job_id)["pilot_error_code"] == 1144
