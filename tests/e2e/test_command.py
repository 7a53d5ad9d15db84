"""The command line as its users meet it: defaults, `try`, `submit`, `status`, and what is said of mistakes."""

import json
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import psutil
import pytest

from tests.lab import Serve, clean_environment, free_port, until

EXAMPLES = Path(__file__).parents[2] / "examples"


def pilot(*arguments, cwd=None, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "pilot", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**clean_environment(), **(environment or {})},
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("example", ["wordcount", "picture"])
def test_try_runs_an_example_and_leaves_its_outputs(tmp_path, example):
    done = pilot("try", EXAMPLES / example / "job.yaml", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "finished"
    for phase in ("acquired", "stage-in", "payload", "stage-out", "report"):
        assert f"s  {phase}" in done.stdout
    output = next(path for path in (tmp_path / "out").iterdir() if path.suffix != ".tgz")
    assert f"{zlib.adler32(output.read_bytes()):08x}" in done.stdout


def test_try_tells_the_cause_and_the_last_words_of_a_failed_job(tmp_path):
    done = pilot("try", EXAMPLES / "failing" / "job.yaml", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "exited with 3" in done.stdout
    assert "  | no calibration for run 4711" in done.stdout
    assert done.stderr == ""


def test_try_json_is_one_object_and_nothing_else(tmp_path):
    done = pilot("try", EXAMPLES / "wordcount" / "job.yaml", "--out", tmp_path / "out", "--json")
    status = json.loads(done.stdout)
    assert done.stderr == ""
    wanted = {
        "id",
        "state",
        "attempt",
        "exit_code",
        "pilot_error_code",
        "pilot_error_diag",
        "outputs",
        "log",
        "seconds",
    }
    assert wanted <= set(status)
    assert set(status["seconds"]) == {"queue", "stage_in", "payload", "stage_out", "report"}
    assert Path(status["outputs"][0]["url"].removeprefix("file://")).is_file()


def test_try_takes_a_panda_definition_with_its_inputs(tmp_path):
    (tmp_path / "in.0.txt").write_text("abc\n")
    job = {
        "PandaID": 5, "attemptNr": 2, "transformation": "/bin/sh", "jobPars": "-c 'rev in.0.txt > out.txt'",
        "inFiles": "in.0.txt", "scopeIn": "s", "checksum": f"ad:{zlib.adler32(b'abc' + bytes([10])):08x}", "fsize": "4",
        "outFiles": "out.txt,log.tgz", "logFile": "log.tgz", "scopeOut": "s", "scopeLog": "s", "logGUID": "g",
        "ddmEndPointOut": "LOCAL_STORE,LOCAL_STORE",
    }  # fmt: skip
    file = tmp_path / "pandaJobData.out"
    file.write_text(json.dumps({"5": job}))
    done = pilot("try", file, "--inputs-from", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "out.txt").read_text() == "cba\n"


def test_try_does_not_let_a_payload_change_its_users_files(tmp_path):
    (tmp_path / "in.txt").write_text("original")
    (tmp_path / "job.yaml").write_text("command: echo changed > in.txt\ninputs: [{url: in.txt}]\n")
    assert pilot("try", tmp_path / "job.yaml", "--out", tmp_path / "out").returncode == 0
    assert (tmp_path / "in.txt").read_text() == "original"


def test_try_ends_everything_it_started_when_it_is_interrupted_or_killed(tmp_path):
    (tmp_path / "job.yaml").write_text("command: echo began; sleep 600\n")
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, "-m", "pilot", "try", tmp_path / "job.yaml", "--out", tmp_path / "out"],
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            until(lambda stream=process.stdout: "started" in stream.readline(), what="payload")
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            process.stdout.read()
        assert psutil.wait_procs(family, 40)[1] == []


def test_the_defaults_fit_together(tmp_path):
    port = free_port()  # the default port may be somebody else's on this machine
    server = Serve(tmp_path / "data", port)
    try:
        job = json.loads(pilot("submit", EXAMPLES / "wordcount" / "job.yaml", "--server", server.url, "--json").stdout)
        done = pilot("run", "--max-jobs", 1, cwd=tmp_path, environment={"PILOT_SERVER": server.url})
        assert done.returncode == 0, done.stderr
        server.ended(job["id"])
        status = json.loads(pilot("status", job["id"], "--server", server.url, "--json").stdout)
        assert status["state"] == "finished", status
        assert (tmp_path / "pilot-work").is_dir()
        assert "counts.txt" in pilot("status", job["id"], "--server", server.url).stdout
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("comand: x\n", "did you mean command?"),
        ("outputs: [x]\n", "neither command nor transformation"),
        ("command: [x]\n", "command: "),
        ("command: x\ncores: many\n", "cores: "),
        ("command: x\ninputs: [{uri: x}]\n", "inputs[0]"),
        ("command: x\ninputs: [{url: missing.txt}]\n", "missing.txt"),
        ("command: x\nsandbox: [missing.sh]\n", "missing.sh"),
        ("command: x\noutputs: ['../x']\n", "../x"),
        ("command: x\nenvironment: {'A B': x}\n", "A B"),
        ("command: {\n", "neither YAML nor JSON"),
        ("- a\n- b\n", "not a mapping"),
        ("", "not a mapping"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["try", "submit"])
def test_a_wrong_job_file_is_one_line_that_says_where(tmp_path, serve, command, text, said):
    (tmp_path / "job.yaml").write_text(text)
    where = ["--server", serve.url] if command == "submit" else ["--out", tmp_path / "out"]
    done = pilot(command, tmp_path / "job.yaml", *where)
    assert done.returncode == 78
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "--bogus"], 78),
        (["run", "--max-jobs", "x"], 78),
        (["run", "--idle", "-1"], 78),
        (["run", "--server", "nonsense"], 78),
        (["run", "--config", "/no/such/file"], 78),
        (["nosuch"], 78),
        (["status", "x"], 78),
        (["status", "1", "--server", "http://127.0.0.1:9"], 1),
        (["run", "--work", "/proc/nowhere", "--idle", "1"], 64),
        (["run", "--server", "http://127.0.0.1:9", "--idle", "0.3"], 64),
        (["serve", "--port", "99999"], 78),
        (["serve", "--data", "/proc/nowhere", "--port", "0"], 78),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_mistake_is_one_line_and_a_code(arguments, code, tmp_path):
    done = pilot(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stdout


def test_an_offline_queue_is_not_asked_for_jobs(serve, tmp_path):
    queue = tmp_path / "queue.json"
    queue.write_text(json.dumps({"nickname": "LOCAL", "status": "offline"}))
    done = pilot("run", "--server", serve.url, environment={"PILOT_QUEUEDATA": str(queue)}, cwd=tmp_path)
    assert done.returncode == 64
    assert "not online" in done.stderr
    assert serve.calls("acquire_jobs") == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, "ERROR : Token authentication failed. Invalid token. Signature has expired"),
        (200, '{"success": false, "message": "SSL secure connection is required", "data": null}'),
        (200, '{"success": false, "message": "no production/pilot role in VOMS FQANs or non pilot owner"}'),
    ],
)
def test_refused_credentials_are_exit_80(serve, tmp_path, status, body):
    serve.faults({"match": "acquire_jobs", "do": "status", "status": status, "body": body, "count": None})
    done = pilot("run", "--server", serve.url, cwd=tmp_path)
    assert done.returncode == 80, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["garbage", "drop_before", "status"])
def test_an_acquire_that_fails_is_asked_again(serve, tmp_path, kind):
    serve.faults({"match": "acquire_jobs", "do": kind, "count": 2, "body": "overloaded"})
    job = serve.submit(command="true")
    assert pilot("run", "--server", serve.url, "--max-jobs", 1, cwd=tmp_path).returncode == 0
    assert serve.ended(job)["state"] == "finished"


def test_the_settings_are_shown_with_their_origin(tmp_path):
    (tmp_path / "pilot.yaml").write_text("grace: 77\n")
    done = pilot(
        "run", "--config", tmp_path / "pilot.yaml", "--idle", 5, "--show-settings", environment={"PILOT_QUEUE": "Q"}
    )
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert lines["grace"] == ["77.0", "file"]
    assert lines["idle"] == ["5.0", "flag"]
    assert lines["queue"] == ["Q", "PILOT_QUEUE"]
    assert lines["patience"] == ["3600.0", "default"]


def test_a_server_that_is_killed_around_the_final_gets_it_once(tmp_path):
    server = Serve(tmp_path / "data", free_port())
    try:
        job = server.submit(command="echo began; sleep 1")
        process = subprocess.Popen(
            [sys.executable, "-m", "pilot", "run", "--server", server.url, "--max-jobs", "1", "--work", tmp_path / "w"],
            stdout=subprocess.DEVNULL,
            env={**clean_environment(), "PILOT_HEARTBEAT": "0.2"},
        )
        until(lambda: server.status(job)["state"] == "running", what="running")
        server.stop(signal.SIGKILL)
        away = time.monotonic()
        until(lambda: time.monotonic() - away > 5, what="five seconds of outage")  # the outage is what is tested
        server.start()
        assert process.wait(60) == 0
        status = server.ended(job)
        assert status["state"] == "finished", status  # the store of the log was away too
        assert len(server.finals(job)) == 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        server.stop()


def test_a_payload_that_destroys_its_surroundings_is_still_reported(serve, tmp_path):
    job = serve.submit(command="rm -rf ../* ; true", outputs=["x"])
    assert pilot("run", "--server", serve.url, "--max-jobs", 1, cwd=tmp_path).returncode == 0
    status = serve.ended(job)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1165)


def test_a_pilot_without_room_for_a_job_reports_it_and_leaves(serve, tmp_path):
    work = tmp_path / "work"
    serve.submit(command="true")
    serve.faults({"match": "acquire_jobs", "do": "late", "seconds": 1.0})
    process = subprocess.Popen(
        [sys.executable, "-m", "pilot", "run", "--server", serve.url, "--work", work],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    with process:
        until(lambda: serve.status(1)["state"] == "sent", what="acquire")
        work.rename(tmp_path / "gone")
        work.write_text("a file where the directory was")
        assert process.wait(30) == 64
        assert "no directory for a job" in process.stderr.read()
    assert (serve.ended(1)["state"], serve.status(1)["pilot_error_code"]) == ("failed", 1199)
