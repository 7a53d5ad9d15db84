"""What a payload leaves under the names of its outputs, and in place of its directory: only its own files go out."""

import io
import tarfile

import pytest

from tests.lab import definition, dump

SECRET = "the-secret-of-somebody-else-0815"


@pytest.fixture
def victim(tmp_path):
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "out").write_text(SECRET)
    yield folder
    assert (folder / "out").read_text() == SECRET


def stored(serve, status):
    return {output["name"]: serve.fetch(output["url"]) for output in status["outputs"]}


def members(serve, status):
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(status["log"]))) as tar:
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in tar}


def run_one(serve, run, command, outputs=("out",), **more):
    job = serve.submit(command=command, outputs=list(outputs), **more)
    assert run("--max-jobs", 1).wait() == 0
    return serve.ended(job)


@pytest.mark.parametrize(
    "command",
    [
        "mv ../work ../w2; ln -s {victim} ../work",
        "cd ..; mv work w2; ln -s {victim} work; cd w2; echo mine > out",
        "cd ../..; mv job-* j2; mkdir job-1; ln -s {victim} job-1/work",
        "rmdir ../work; ln -s {victim} ../work",
        "mkdir sub; mv ../work ../w2; mkdir ../work; ln -s {victim}/out ../work/out",
        "ln -s {victim}/out out",
        "ln {victim}/out out",
        "ln {victim}/out out; ln out out2; ln out ../tmp/out3",
        "mkdir out",
        "mkfifo out",
        "ln -s /proc/self/environ out",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"out\")'",
    ],
)
def test_nothing_but_a_file_of_its_own_is_stored(serve, run, victim, command):
    status = run_one(serve, run, command.format(victim=victim))
    # Then: what it left itself is stored, or nothing
    assert set(stored(serve, status).values()) <= {b"mine\n"}
    assert (status["state"], status["pilot_error_code"]) in {("failed", 1165), ("finished", 0)}, dump(status)
    assert SECRET not in dump(serve.requests(status["id"]))
    assert all(SECRET.encode() not in content for content in members(serve, status).values())


def test_outputs_that_are_names_of_one_file_of_the_payload_are_stored(serve, run):
    status = run_one(serve, run, "echo mine > a; ln a b; ln a ../tmp/c", ["a", "b"])
    assert status["state"] == "finished", dump(status)
    assert stored(serve, status) == {"a": b"mine\n", "b": b"mine\n"}


@pytest.mark.parametrize("name", ["payload.stdout", "payload.stderr", "pilot.log", "usage.jsonl", "work", "tmp", "log"])
def test_a_log_may_have_any_name(serve, run, name):
    """Also one that a file of the pilot's own has."""
    log = {"logFile": name, "outFiles": name}
    job = serve.submit_panda(**definition(transformation="echo", jobPars="words", **log))
    assert run("--max-jobs", 1).wait() == 0
    status = serve.ended(job)
    assert status["state"] == "finished", dump(status)
    found = members(serve, status)
    assert found["payload.stdout"] == b"words\n"
    assert b"payload ended exit_code=0" in found["pilot.log"]
