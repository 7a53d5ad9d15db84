"""Whatever a payload puts in the place of a file on the volume: the server hears one truth, in time, and nothing leaks.

The files are those that a running pilot has on its volume, found by looking, so that a new one is attacked as well.
"""

import io
import os
import shlex
import signal
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.hostile.attack import KINDS, attack
from tests.lab import Run, dump, ended_runs, until

ATTACK = Path(__file__).with_name("attack.py")
SECRET = "the-secret-of-somebody-else-0815"
LIMIT_S = 60.0
"""What one life may take: a hang is longer, and so is the watchdog's patience."""

EACH = ("fifo", "symlink") if not os.environ.get("SOAK") else tuple(KINDS)
"""What is done to each file alone. All at once suffer each kind."""


@pytest.fixture
def victim(tmp_path):
    """A file that is nobody's but its owner's."""
    folder = tmp_path / "victim"
    folder.mkdir()
    file = folder / "secret"
    file.write_text(SECRET)
    yield file
    assert file.read_text() == SECRET, "somebody else's file was changed"


@pytest.fixture
def lives(serve, tmp_path):
    """Starts pilots on one volume."""
    with ended_runs() as started:

        def start(*command, environment=None):
            work = tmp_path / "work"
            given = {"PILOT_LEASE": "1", **(environment or {})}
            started.append(Run(serve.url, work, command=command or None, environment=given))
            started[-1].log = work.parent / "work.log"
            return started[-1]

        def run(*arguments, **more):
            started.append(Run(serve.url, tmp_path / "work", "--max-jobs", 1, "--idle", 5, *arguments, **more))
            return started[-1]

        start.run = run
        start.work = tmp_path / "work"
        yield start


def files_of(work):
    """The files of the pilot on its volume while a payload runs, by their paths from there."""
    payloads = list(work.glob("job-*"))
    found = [one for one in sorted(work.rglob("*")) if not any(one.is_relative_to(own) for own in payloads)]
    return [str(one.relative_to(work)) for one in found]


def known_files(tmp_path_factory):
    """The layout, as one pilot has it; the job's number and random part stand as patterns."""
    return LAYOUT


LAYOUT = [
    "journal", "journal.owner", "journal.reserve", "pilot.log", "heartbeat", "site-*.json", "credentials", "pilot",
    "pilot/job-*", "pilot/job-*/pilot.log", "pilot/job-*/payload.stdout", "pilot/job-*/payload.stderr",
    "pilot/job-*/usage.jsonl", "pilot/job-*/log.reserve", "job-*", "job-*/work", "job-*/tmp",
]  # fmt: skip


def payload(kind, secret, patterns, work, then="exit 1"):
    """A payload that leaves an output and some words, spoils the files, and ends."""
    program = shlex.join([sys.executable, str(ATTACK), kind, str(secret)])
    files = " ".join(f"{shlex.quote(str(work))}/{pattern}" for pattern in patterns)
    return f"echo words; echo last words >&2; echo content > out; cd /; {program} {files}; {then}"


def told(serve, job):
    """The one final of a job."""
    status = serve.ended(job)
    finals = [
        one for one in status["history"] if one["call"] == "update_job" and one["state"] in ("finished", "failed")
    ]
    assert len(finals) == 1, dump(status)
    return status


def nothing_leaked(serve, status):
    """Neither in what was said nor in what was stored."""
    assert SECRET not in dump([one.get("body") for one in serve.requests(status["id"])])
    for output in status["outputs"]:
        assert SECRET.encode() not in serve.fetch(output["url"])
    if status["log"]:
        content = serve.fetch(status["log"])
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                assert SECRET.encode() not in tar.extractfile(member).read(), member.name


def left(run):
    """Its exit code, in time."""
    began = time.monotonic()
    code = run.wait(LIMIT_S)
    assert time.monotonic() - began < LIMIT_S
    assert "Traceback" not in run.errors.read_text() + run.log.read_text()
    return code


def test_the_layout_is_what_a_pilot_has_on_its_volume(serve, lives):
    """A file that is new in the layout belongs into the tables below."""
    job = serve.submit(command="sleep 600", outputs=[])
    pilot = lives.run()
    until(lambda: list(lives.work.glob("pilot/job-*/usage.jsonl")) and serve.status(job)["state"] == "running")
    known = {path for pattern in LAYOUT for path in lives.work.glob(pattern)}
    unknown = [one for one in files_of(lives.work) if lives.work / one not in known]
    assert [one for one in unknown if not one.startswith("credentials/")] == []
    pilot.signal(signal.SIGTERM)
    assert left(pilot) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("then", ["exit 0", "exit 1"])
def test_all_files_are_spoiled_while_the_payload_runs(serve, lives, victim, kind, then):
    spoiled = [one for one in LAYOUT if one not in ("job-*", "pilot")]
    command = payload(kind, victim, spoiled, lives.work, then)
    job = serve.submit(command=command, outputs=["out"])
    left(lives.run())
    status = told(serve, job)
    assert status["state"] == "failed" or (then == "exit 0" and status["outputs"]), dump(status)
    nothing_leaked(serve, status)


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("pattern", LAYOUT)
def test_a_file_is_spoiled_while_the_payload_runs(serve, lives, victim, kind, pattern):
    job = serve.submit(command=payload(kind, victim, [pattern], lives.work), outputs=["out"])
    left(lives.run())
    status = told(serve, job)
    assert status["state"] == "failed", dump(status)
    assert status["pilot_error_code"] == 1305, dump(status)
    nothing_leaked(serve, status)
    # Then: the next pilot on the volume works, or says in one line why it cannot
    other = serve.submit(command="echo content > out", outputs=["out"])
    if left(lives.run()) == 0:
        assert told(serve, other)["state"] == "finished"
    else:
        serve.abandon(other)


@pytest.mark.parametrize("kind", KINDS)
def test_all_files_are_spoiled_and_the_pilot_is_killed(serve, lives, victim, kind):
    spoiled = [one for one in LAYOUT if one not in ("job-*", "pilot", "journal")]
    command = payload(kind, victim, spoiled, lives.work, "kill -9 $PPID; sleep 600")
    job = serve.submit(command=command, outputs=["out"])
    assert lives.run().wait(LIMIT_S) == -signal.SIGKILL
    left(lives("recover"))
    status = told(serve, job)
    assert status["state"] == "failed", dump(status)
    nothing_leaked(serve, status)


@pytest.mark.parametrize("kind", KINDS)
def test_all_files_are_spoiled_before_the_next_pilot(serve, lives, victim, kind):
    serve.submit(command="true", outputs=[])
    assert left(lives.run()) == 0
    paths = [path for pattern in LAYOUT for path in lives.work.glob(pattern)]
    attack(kind, victim, paths)
    # When: the next pilot starts
    job = serve.submit(command="echo content > out", outputs=["out"])
    code = left(lives.run())
    # Then: it works, or leaves with what is wrong, and takes nothing
    if code == 0:
        status = told(serve, job)
        assert status["state"] == "finished", dump(status)
        nothing_leaked(serve, status)
    else:
        assert code == 64
        assert serve.status(job)["state"] == "activated"
        serve.abandon(job)
