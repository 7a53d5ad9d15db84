"""The secret zoo: a payload prints every secret it has, in every spelling, and none leaves by the pilot's hand."""

import gzip
import io
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import pilot
from pilot.agent.lastwords import write_last_words
from pilot.panda.fields import FIELDS, clean
from pilot.panda.upkeep import LogCache, UploadLog, UploadWholeLog
from pilot.values.deadline import REAL_CLOCK
from pilot.values.redaction import Redactor
from pilot.values.settings import Settings
from tests.hostile.peeping import PEEP
from tests.lab import Run, clean_environment, ended_runs, until
from tests.secretzoo import SHAPES, found, spellings

KEPT = "words that are no secret"
TAKEN = {"success": True}
HARVESTED = {"HARVESTER_ID": "harvester", "HARVESTER_WORKER_ID": "7"}
BARE = ("--reuid=5001", "--regid=5001", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")


@pytest.fixture
def pilots(tmp_path, serve):
    with ended_runs() as started:

        def start(*arguments, command=None, **environment):
            given = {
                "PILOT_HEARTBEAT": "0.3",
                "PILOT_DEBUG_HEARTBEAT": "0.3",
                "PILOT_LOG_LEVEL": "debug",
                "PILOT_LOG_INTERVAL": "1",
                "PILOT_TERMINATION_LOG": str(tmp_path / "last-words"),
                "logs_frontend_w": serve.url,
                **HARVESTED,
                **environment,
            }
            work = tmp_path / "work"
            started.append(Run(serve.url, work, *arguments, command=command, environment=given))
            return started[-1]

        yield start


def all_spellings(folder):
    """A file with the whole zoo, each spelling in a line of its own."""
    file = folder / "zoo.txt"
    text = "\n".join(f"-- {one} --" for secret in SHAPES.values() for one in spellings(secret))
    file.write_text(f"{KEPT}\n{text}\n{KEPT}\n", "utf-8", "surrogatepass")
    return file


def last_line(folder, name):
    """A file whose last line is a secret as Python and JSON show it."""
    file = folder / f"{name.replace(' ', '-')}.txt"
    file.write_text(f"{KEPT}\nlast words: {SHAPES[name]} {json.dumps(SHAPES[name])}", "utf-8")
    return file


def outlets(serve, run, folder, jobs):
    """All that the pilot has sent, packed or written down for others, by where it went."""
    yield "stdout", run.log.read_bytes()
    yield "stderr", run.errors.read_bytes()
    yield "copy of the log", (run.work / "pilot.log").read_bytes()
    yield "journal", (run.work / "journal").read_bytes()
    yield "termination message", (folder / "last-words").read_bytes() if (folder / "last-words").exists() else b""
    for number, request in enumerate(serve.requests()):
        if not request["path"].startswith("/local/") and request["body"]:
            yield f"request {number} {request['path']}", request["body"].encode("utf-8", "surrogatepass")
            for name, value in (body(request) if request["body"].startswith("{") else {}).items():
                yield f"field {name} of request {number}", str(value).encode("utf-8", "surrogatepass")
    for file in serve.data.rglob("*_gz.out"):
        yield f"upload {file.name}", gzip.decompress(file.read_bytes())
    for job in jobs:
        yield from (
            (f"tarball of job {job}: {name}", content) for name, content in members(serve, job) if "saved" not in name
        )


def body(request):
    return json.loads(request["body"])


def members(serve, job):
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(serve.status(job)["log"]))) as tar:
        return [(one.name, tar.extractfile(one).read()) for one in tar if one.isfile()]


def leaks(places):
    return [
        (place, name, spelling)
        for place, content in places
        for name, secret in SHAPES.items()
        for spelling in found(secret, content)
    ]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_leaves_by_any_outlet_in_any_spelling(serve, pilots, tmp_path, log_format):
    # Given a job that prints the whole zoo, waits to be looked at, and fails; and for each shape one that dies of it
    zoo, go_on = all_spellings(tmp_path), tmp_path / "go-on"
    text = f"cat {zoo}; cat {zoo} >&2; cp {zoo} copy.txt; while [ ! -e {go_on} ]; do sleep 0.05; done; exit 3"
    first = serve.submit(command=text, secrets=SHAPES)
    jobs = [first]
    for name in SHAPES:
        file = shlex.quote(str(last_line(tmp_path, name)))
        jobs.append(serve.submit(command=f"cat {file} >&2; exit 4", secrets={name: SHAPES[name]}))
    # When a pilot runs them, the debug tail is sent, and a file of it is asked for
    run = pilots("--max-jobs", len(jobs), "--idle", 5, PILOT_LOG_FORMAT=log_format)
    until(lambda: serve.status(first)["state"] == "running", what="the start")
    for command in ("debug", "tail copy.txt", "tail payload.stderr"):
        before = len(shown(serve, first))
        serve.call("POST", "/api/v1/job/set_command", json={"job_id": first, "command": command})
        until(lambda before=before: len(shown(serve, first)) > before + 1, what=f"the answer to {command}")
    go_on.touch()
    assert run.wait() == 0
    # Then nothing of the zoo is anywhere, and what is no secret still is
    places = list(outlets(serve, run, tmp_path, jobs))
    assert leaks(places) == []
    whole = dict(members(serve, first))
    for name, content in whole.items():
        if name.endswith(("stdout", "stderr")):
            assert len(content) == zoo.stat().st_size, "the payload's output is as long as it was"
            assert content.count(KEPT.encode()) == 2
    finals = [one for one in map(body, serve.calls("update_job")) if one["job_status"] == "failed"]
    assert len(finals) == len(jobs)
    assert all("***" in one["exe_error_diag"] and "***" in one["pilot_error_diag"] for one in finals[1:])
    assert all("***" in json.loads(one["meta_data"])["error"]["diag"] for one in finals[1:])
    assert any("upload" in place for place, _ in places)


def shown(serve, job):
    return [one["stdout"] for one in map(body, serve.calls("update_job", job)) if one.get("stdout")]


def test_the_next_life_does_not_send_what_the_payload_has_printed(serve, pilots, tmp_path):
    # Given a payload that prints the zoo, deletes its secrets' file and kills its pilot
    zoo = all_spellings(tmp_path)
    job = serve.submit(command=f"cat {zoo}; cat {zoo} >&2; rm panda_secrets.json; kill -9 $PPID", secrets=SHAPES)
    run = pilots("--max-jobs", 1, "--idle", 5)
    assert run.wait() < 0
    # When the job is recovered
    recovered = pilots(command=["recover"])
    assert recovered.wait() == 0
    # Then nothing of the zoo has left
    assert serve.ended(job)["state"] == "failed"
    assert leaks(outlets(serve, recovered, tmp_path, [job])) == []
    serve.checked = False  # the pilot was killed


def test_a_secret_that_is_a_word_of_ours_costs_no_final(serve, pilots):
    words = ["failed", "finished", "running", "LOCAL_STORE", "adler32", "job_status", "pilot_error_code"]
    job = serve.submit(command="echo running; exit 3", secrets=dict(enumerate(words)))
    run = pilots("--max-jobs", 1, "--idle", 5)
    assert run.wait() == 0
    status = serve.ended(job)
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert status["log"]


def test_a_password_in_a_setting_is_not_shown(serve, pilots, tmp_path):
    environment = {**clean_environment(), "PILOT_HTTP_PROXY": "http://me:hunter2-long@127.0.0.1:9"}
    shown = subprocess.run(
        [sys.executable, "-m", "pilot", "run", "--show-settings"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "http://me:***@127.0.0.1:9" in shown
    run = pilots("--max-jobs", 1, "--idle", 0.5, PILOT_HTTP_PROXY="http://me:hunter2-long@127.0.0.1:9")
    run.says("tries=")
    run.signal(signal.SIGTERM)
    assert run.wait() == 0
    written = run.log.read_text() + run.errors.read_text() + (tmp_path / "last-words").read_text()
    assert "hunter2" not in written


@pytest.mark.parametrize("name", SHAPES)
def test_the_termination_message_and_an_upload_hold_no_secret_that_is_known_by_then(tmp_path, name):
    # Given a log that was written before the secret was known
    redactor, sent = Redactor(), {}
    file, said = tmp_path / "pilot.log", "\n".join(spellings(SHAPES[name]))
    file.write_text(f"{KEPT} {said}\n", "utf-8", "surrogatepass")
    redactor.learn_of_job(SHAPES[name])
    # When it is uploaded, and the pilot ends with an error that quotes it
    wire = SimpleNamespace(redactor=redactor, upload=lambda _url, name, content: sent.update({name: content}) or TAKEN)
    for duty in (
        UploadLog(REAL_CLOCK, random.Random(1), file, LogCache("http://h/", "h_1"), 600),
        UploadWholeLog(REAL_CLOCK, random.Random(1), file, LogCache("http://h/", "h_1")),
    ):
        duty.attempt(SimpleNamespace(wire=wire), lambda _message: None)
    write_last_words(Settings(termination_log=str(tmp_path / "last-words")), 64, f"{KEPT}: {said}", redactor)
    # Then none of it is there
    assert len(sent) == 2
    for content in [*map(gzip.decompress, sent.values()), (tmp_path / "last-words").read_bytes()]:
        assert KEPT.encode() in content
        assert found(SHAPES[name], content) == []


@pytest.mark.parametrize("name", SHAPES)
def test_no_text_of_an_update_or_of_a_range_holds_a_secret(name):
    redactor = Redactor()
    redactor.learn(SHAPES[name])
    said = [f"{KEPT} {one}" for one in spellings(SHAPES[name])]
    foreign = [field for field, one in FIELDS.items() if one.foreign]
    assert {"pilot_error_diag", "exe_error_diag", "meta_data", "pilot_log", "stdout"} <= set(foreign)
    for one in said:
        update = {field: json.dumps({"a": [{one: one}]}) if field == "meta_data" else one for field in foreign}
        sent = clean(update, redactor)
        assert [leak for text in sent.values() for leak in found(SHAPES[name], text.encode())] == []
        assert all(KEPT in text for text in sent.values())
        assert found(SHAPES[name], json.dumps(json.loads(sent["meta_data"]), ensure_ascii=False).encode()) == []


def test_a_secret_of_an_argument_is_not_in_the_error_line():
    command = [sys.executable, "-m", "pilot", "status", "1", "--server", "ftp://me:hunter2-long@h/x?token=abcdefgh"]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "ftp://me:***@h" in done.stderr
    assert "abcdefgh" not in done.stderr


@pytest.fixture
def open_folder():
    """A directory that another user gets into, as into none of pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def as_nobody(*command):
    """The command as uid 5001 without capabilities; as we are where we are not root."""
    return ["setpriv", *BARE, *command] if os.getuid() == 0 else [*command]


@pytest.fixture(scope="module")
def python():
    """An interpreter that the other user can start as well, and the environment in which it finds the pilot."""
    paths = [str(Path(pilot.__file__).parents[1]), *(one for one in sys.path if one.endswith("site-packages"))]
    environment = {**clean_environment(), "PYTHONPATH": os.pathsep.join(paths)}
    name = f"python3.{sys.version_info.minor}"
    for candidate in filter(None, (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin"))):
        tried = as_nobody("/bin/sh", "-c", f"exec {candidate} -c 'import pilot.agent.agent'")
        if subprocess.run(tried, env=environment, capture_output=True, check=False).returncode == 0:
            return candidate, environment
    if os.environ.get("CI"):
        pytest.fail("no interpreter that another user can start")
    pytest.skip("no interpreter that another user can start")


def peeped(serve, folder, python, environment):
    """What a payload got of each process of its uid, while a lane was alive: of lanes, each time it looked."""
    program, told = folder / "peep.py", folder / "told.json"
    program.write_text(PEEP)
    job = serve.submit(command=f"{shutil.which('python3', path='/usr/bin')} {program} {told} pilot.staging.worker")
    work = str(folder / "work")
    command = as_nobody(python, "-m", "pilot", "run", "--server", serve.url, "--work", work, "--max-jobs", "1")
    with (folder / "log").open("w") as log:
        run = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        assert run.wait(60) == 0, (folder / "log").read_text()
    finally:
        run.kill()
        run.wait()
    assert serve.ended(job)["state"] == "finished"
    seen = json.loads(told.read_text())
    assert {"pilot run", "pilot.staging.worker"} <= set(seen), seen
    assert set(seen.pop("own child")[0]) >= {"mem", "fd"}, "what is open is seen to be open"
    return seen


def test_a_payload_of_the_same_uid_cannot_look_into_the_pilot_or_its_helpers(serve, open_folder, python):
    seen = peeped(serve, open_folder, *python)
    assert not any(seen["pilot run"])
    assert seen["pilot.staging.worker"][-1] == [], "a helper closes itself with its first line"


@pytest.mark.skipif(os.getuid() != 0, reason="needs a program of another user: root makes one")
def test_with_an_interpreter_that_cannot_be_read_nothing_is_open_from_its_first_instruction(serve, open_folder, python):
    # Given the image's way: an interpreter that its uid may execute, and not read
    subprocess.run([python[0], "-m", "venv", "--copies", "--without-pip", open_folder / "venv"], check=True)
    for program in (open_folder / "venv/bin").glob("python*"):
        program.chmod(0o711)
    seen = peeped(serve, open_folder, str(open_folder / "venv/bin/python"), python[1])
    assert not any(look for looks in seen.values() for look in looks), seen


@pytest.mark.parametrize("module", ["pilot.staging.worker", "pilot.resources.nvml"])
def test_each_helper_closes_itself(module, python):
    environment = {**python[1], "PILOT_LANE_KEEP_S": "30"}
    command = as_nobody(python[0], "-m", module, str(os.getpid()))
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as helper:
        try:
            place = Path(f"/proc/{helper.pid}")
            until(lambda: module.encode() in (place / "cmdline").read_bytes(), 10, "its start")
            until(lambda: (place / "environ").stat().st_uid == 0, 20, "the kernel's word that it is closed")
        finally:
            helper.kill()
