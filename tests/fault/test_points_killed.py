"""A pilot that evaluates points, killed at its n-th write of the journal: the next lives bring the study to its end."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.lab import Serve, clean_environment, dump
from tests.studies import PATIENCE, ended, look, losses, python, study, submit

LIVES = 4
WRITES = range(2, 40) if os.environ.get("SOAK") else (3, 5, 6, 7, 8, 9, 10, 12, 14, 17)

EVALUATE = (
    "import json, os; x = json.load(open('input.json'))['x'];"
    " json.dump({{'loss': x * x}}, open('.out', 'w')); os.rename('.out', 'output.json');"
    " open('{done}', 'a').write(os.environ['HPO_SAMPLE_ID'] + chr(10))"
)
"""The answer is there as a whole or not at all; after it a line says that the point was evaluated."""


@pytest.fixture
def serve(tmp_path):
    server = Serve(tmp_path / "data")
    yield server
    server.stop()


def live(server, work, *tap):
    """One life of a pilot, under strace if it is to be killed; its log."""
    command = [sys.executable, "-m", "pilot", "run", "--server", server.url, "--work", str(work), "--max-jobs", "1"]
    done = subprocess.run(
        [*tap, *command], env={**clean_environment(), **PATIENCE, "PILOT_SLOTS": "2"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("nth", WRITES)
def test_no_evaluated_point_is_lost_and_none_is_evaluated_twice(serve, tmp_path, nth):
    if shutil.which("strace") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no strace")
    done = tmp_path / "done"
    done.touch()
    task = submit(serve, study(points=4, command=python(EVALUATE.format(done=done))))
    inject = f"inject=pwrite64:signal={signal.SIGKILL.name}:when={nth}"
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", inject]
    logs = [live(serve, tmp_path / "work", *trace)]
    while look(serve, task)["state"] == "running" and len(logs) < LIVES:
        logs.append(live(serve, tmp_path / "work"))
    found = ended(serve, task)
    serve.slots = 2  # a job whose answer died with the pilot is ended by the server's own time limit
    serve.abandon(*(job for job in found["jobs"] if serve.status(job)["state"] == "sent"))
    assert found["counts"]["evaluated"] == 4, dump(found["counts"])
    assert found["counts"]["penalised"] == 0, "\n\n".join(logs)
    told = losses(serve, task)
    assert all(len(one) == 1 for one in told.values()), dump(told)
    evaluated = done.read_text().split()
    assert sorted(evaluated) == ["1", "2", "3", "4"], "\n\n".join(logs)
