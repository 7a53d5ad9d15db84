"""What becomes of a job whose pilot was killed: `pilot recover`, beside it or after it, and the next `pilot run`."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pilot.runner.journal import read
from tests.lab import Serve, dump, free_port, until

SLEEPER = "echo began; touch there; sleep 600"


def recover(lives, *arguments, **more):
    return lives(*arguments, command=["recover"], **more)


def killed_while_it_runs(serve, lives, *arguments, command=SLEEPER, **more):
    """A job, its pilot killed in the middle of the payload, and the payload's process."""
    job = serve.submit(command=command, **more)
    pilot = lives(*arguments)
    payload = running(serve, lives, job)
    pilot.process.kill()
    pilot.process.wait()
    return job, payload


def running(serve, lives, job):
    until(lambda: serve.status(job)["state"] == "running", what="running")
    proof = until(lambda: [one for one in read(lives.work) if one["kind"] == "started"], what="a started payload")
    return psutil.Process(proof[-1]["proof"]["pid"])


def gone(process):
    """Whether nothing of it runs any more; who buries an orphan of a killed pilot may take its time."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def the_one_final(serve, job, state, code):
    status = serve.ended(job)
    assert (status["state"], status["pilot_error_code"]) == (state, code), dump(status)
    assert len(serve.finals(job)) == 1
    return status


def test_a_sidecar_says_the_last_word_on_a_job_whose_pilot_was_killed(serve, lives):
    sidecar = recover(lives, "--wait")
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    serve.innocent(stranger.pid)
    job, payload = killed_while_it_runs(serve, lives)
    killed = time.monotonic()
    assert sidecar.wait(10) == 0
    assert time.monotonic() - killed < 10
    status = the_one_final(serve, job, "failed", 1200)
    assert "the pilot was killed while the payload ran" in status["pilot_error_diag"]
    assert status["log"], "the log was saved"
    assert gone(payload)
    serve.check()
    stranger.kill()
    stranger.wait()
    serve.innocents.clear()


def test_of_two_recoverers_one_wins(serve, lives):
    sidecars = [recover(lives, "--wait"), recover(lives, "--wait")]
    job, _ = killed_while_it_runs(serve, lives)
    assert [one.wait(20) for one in sidecars] == [0, 0]
    the_one_final(serve, job, "failed", 1200)
    assert sum("final delivered" in one.log.read_text() for one in sidecars) == 1


def test_a_sidecar_leaves_with_a_pilot_that_ends_in_order(serve, lives):
    sidecar = recover(lives, "--wait")
    job = serve.submit(command="true")
    assert lives("--max-jobs", 1).wait() == 0
    assert sidecar.wait(10) == 0
    the_one_final(serve, job, "finished", 0)
    assert "no open job" in sidecar.log.read_text()


def test_a_sidecar_that_waits_for_a_pilot_obeys_a_stop(lives):
    sidecar = recover(lives, "--wait")
    until(lambda: has_handler(sidecar), what="its handlers")
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait(5) == 0


def has_handler(run):
    """Whether it has a handler for USR1, which is the last that it installs."""
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


def test_the_next_pilot_on_the_volume_ends_the_job_first_and_then_takes_another(serve, lives):
    job, payload = killed_while_it_runs(serve, lives)
    another = serve.submit(command="true")
    assert lives("--max-jobs", 1).wait() == 0
    the_one_final(serve, job, "failed", 1200)
    the_one_final(serve, another, "finished", 0)
    assert gone(payload)


def test_a_job_whose_payload_had_ended_well_is_finished_with_its_outputs(serve, lives, tmp_path):
    runs = tmp_path / "runs"
    serve.runs_file = runs
    serve.faults({"match": "/store/local", "do": "delay", "seconds": 600})
    job = serve.submit(command=f"echo $PANDAID >> {runs}; echo one > a; echo two > b", outputs=["a", "b"])
    pilot = lives("--max-jobs", 1)
    until(lambda: serve.call("GET", "/local/faults")["rules"][0]["met"], what="an upload in flight")
    pilot.process.kill()
    pilot.process.wait()
    serve.faults()
    assert recover(lives).wait() == 0
    status = the_one_final(serve, job, "finished", 0)
    assert {one["name"]: serve.fetch(one["url"]) for one in status["outputs"]} == {"a": b"one\n", "b": b"two\n"}
    assert runs.read_text() == f"{job}\n"


def test_a_final_that_was_said_is_said_again_word_for_word(serve, lives):
    # Given: finals that do not arrive, and a pilot that is killed when it has said one
    serve.faults({"match": "update_job", "do": "drop_before", "state": "finished"})
    job = serve.submit(command="true")
    pilot = lives("--max-jobs", 1)
    until(lambda: [one for one in read(lives.work) if one["kind"] == "final"], what="the first final")
    pilot.process.kill()
    pilot.process.wait()
    written = [one for one in read(lives.work) if one["kind"] == "final"][-1]["fields"]
    serve.faults()
    # When: the job is recovered
    assert recover(lives).wait() == 0
    # Then: what arrives is what was written down
    assert serve.ended(job)["state"] == "finished"
    said = [json.loads(one["body"]) for one in serve.calls("update_job", job)]
    finals = [one for one in said if one["job_status"] == "finished"]
    assert all(one == finals[0] for one in finals)
    assert all(finals[0][name] == value for name, value in written.items() if value is not None)


def test_a_good_final_that_the_server_has_is_not_said_again(serve, lives):
    serve.faults({"match": "update_job", "do": "drop_after", "state": "finished"})
    job = serve.submit(command="true")
    pilot = lives("--max-jobs", 1)
    until(lambda: serve.finals(job), what="the first final")
    pilot.process.kill()
    pilot.process.wait()
    serve.faults()
    said = len(serve.calls("update_job", job))
    assert recover(lives).wait() == 0
    assert serve.ended(job)["state"] == "finished"
    assert len(serve.calls("update_job", job)) == said


def test_a_job_that_the_server_has_ended_meanwhile_is_dropped(serve, lives):
    job, payload = killed_while_it_runs(serve, lives, command="echo x > a; sleep 600", outputs=["a"])
    final = {"job_id": job, "attempt_nr": 1, "job_status": "failed", "pilot_error_code": 1144}
    serve.call("POST", "/api/v1/pilot/update_job", json=final)
    serve.ended(job)
    told = len(serve.calls("update_job", job))
    assert recover(lives).wait() == 0
    assert gone(payload)
    assert len(serve.calls("update_job", job)) == told, "nothing is said of a job that is not ours any more"
    assert [one for one in read(lives.work) if one["kind"] == "ended"][-1]["verdict"] == "dropped"


def test_a_stop_that_ended_in_a_kill_is_told_as_the_preemption_that_it_was(serve, lives):
    job = serve.submit(command="trap '' TERM; while :; do sleep 0.1; done")
    pilot = lives(environment={"PILOT_IN_POD": "yes", "PILOT_GRACE": "60"})
    running(serve, lives, job)
    pilot.process.send_signal(signal.SIGTERM)
    until(lambda: any(one["kind"] == "stop" for one in read(lives.work)), what="the record of the stop")
    pilot.process.kill()
    pilot.process.wait()
    assert recover(lives).wait() == 0
    the_one_final(serve, job, "failed", 1379)


def test_without_a_server_the_journal_keeps_the_job(tmp_path, lives):
    server = Serve(tmp_path / "other", free_port())
    job = server.submit(command=SLEEPER)
    pilot = lives(server=server.url)
    running(server, lives, job)
    pilot.process.kill()
    pilot.process.wait()
    server.stop(signal.SIGKILL)
    assert recover(lives, environment={"PILOT_PATIENCE": "0.5"}, server=server.url).wait() == 1
    server = Serve(tmp_path / "other", server.port)
    assert recover(lives, server=server.url).wait() == 0
    the_one_final(server, job, "failed", 1200)
    server.stop()


def test_what_a_sidecar_must_know_stands_in_the_journal(serve, lives):
    """Harvester gives its variables to the pilot's container only."""
    job = serve.submit(command=SLEEPER)
    pilot = lives(environment={"PILOT_BATCH_ID": "the-pod", "PILOT_NODE": "node7", "PILOT_SCHEDULER_ID": "who"})
    running(serve, lives, job)
    pilot.process.kill()
    pilot.process.wait()
    alone = recover(lives, environment={"PILOT_WORK": str(lives.work)}, server="")
    assert alone.wait() == 0, alone.errors.read_text()
    the_one_final(serve, job, "failed", 1200)
    said = [json.loads(one["body"]) for one in serve.calls("update_job", job)]
    assert {(one["batch_id"], one["node"], one["scheduler_id"]) for one in said} == {("the-pod", "node7", "who")}


def test_a_volume_has_one_pilot(serve, lives):
    job = serve.submit(command="sleep 600")
    first = lives()
    running(serve, lives, job)
    second = lives()
    assert second.wait() == 64
    assert f"is in use by pilot {first.process.pid}" in second.errors.read_text()
    assert recover(lives).wait() == 0
    assert "nothing to recover" in Path(lives.work.parent / "life3.log").read_text()
    first.signal(signal.SIGTERM)
    assert first.wait() == 0


def test_a_volume_with_another_servers_job_takes_no_new_one(serve, lives):
    job, _ = killed_while_it_runs(serve, lives)
    other = lives(server="http://127.0.0.1:9")
    assert other.wait() == 78
    assert f"holds an open job of {serve.url}" in other.errors.read_text()
    assert recover(lives).wait() == 0
    the_one_final(serve, job, "failed", 1200)


# --- memory -----------------------------------------------------------------------------------------

MEMORY = Path("/sys/fs/cgroup/memory")
LIMIT_MIB = 400
GROWING = """python3 -c '
import time
held = []
while True:
    held.append(bytearray(8 << 20))
    time.sleep(0.05)
'"""


@pytest.fixture
def small_pod():
    """A memory cgroup of version 1.

    With ``oom_control`` its members hang at the limit, until somebody ends them all at once: so the kernel ends
    the container of a pod (memory.oom.group, faults.md row 35).
    """
    folder = MEMORY / f"pilot-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        text = f"no memory cgroup can be made: {error}"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    (folder / "memory.limit_in_bytes").write_text(str(LIMIT_MIB << 20))
    yield folder
    for pid in members(folder):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not members(folder), what="an empty cgroup")
    folder.rmdir()


def members(folder):
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]


def test_a_pod_that_is_killed_for_its_memory_is_told_as_such(serve, lives, small_pod):
    (small_pod / "memory.oom_control").write_text("1")
    sidecar = recover(lives, "--wait")
    job = serve.submit(command=GROWING)
    pilot = lives(environment={"PILOT_HEARTBEAT": "1"})
    (small_pod / "cgroup.procs").write_text(str(pilot.process.pid))
    under = small_pod / "memory.oom_control"
    until(lambda: "under_oom 1" in under.read_text(), what="the limit")
    for pid in members(small_pod):
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    assert sidecar.wait(20) == 0
    assert time.monotonic() - killed < 10
    status = the_one_final(serve, job, "failed", 1212)
    assert "out of memory likely" in status["pilot_error_diag"]


def test_a_payload_that_alone_is_killed_for_its_memory_is_told_as_such(serve, lives, small_pod):
    job = serve.submit(command=f"exec {GROWING}")
    pilot = lives()
    (small_pod / "cgroup.procs").write_text(str(pilot.process.pid))
    assert pilot.wait() == 0
    status = the_one_final(serve, job, "failed", 1212)
    assert "killed the payload for its memory" in status["pilot_error_diag"]
