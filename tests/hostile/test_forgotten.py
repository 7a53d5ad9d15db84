"""A payload that ends its pilot and takes the word of its job out of the journal: the server hears of the end."""

import signal

import pytest

from tests.lab import Run, dump, ended_runs

LIMIT_S = 60.0


@pytest.fixture
def life(serve, tmp_path):
    """Starts one life after the other on one volume; what is left of them ends with the test."""
    with ended_runs() as started:

        def start(*arguments, command=None):
            given = {"PILOT_LEASE": "1"}
            started.append(Run(serve.url, tmp_path / "work", *arguments, command=command, environment=given))
            return started[-1].wait(LIMIT_S)

        yield start


ATTACKS = {
    "cut to nothing": ": > ../../journal",
    "removed": "rm ../../journal",
    "removed with its owner": "rm ../../journal ../../journal.owner",
    "a directory": "rm ../../journal; mkdir ../../journal",
    "every line spoiled": "sed -i 's/^/x/' ../../journal",
}


@pytest.mark.parametrize("following", ["recover", "run"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_job_whose_records_are_gone_has_its_one_end(serve, life, attack, following):
    job = serve.submit(command=f"{ATTACKS[attack]}; kill -9 $PPID; sleep 600", outputs=["out"])
    assert life("--max-jobs", 1) == -signal.SIGKILL
    if following == "recover":
        assert life(command=["recover"]) == 0
    else:
        assert life("--max-jobs", 1, "--idle", 0) in (0, 64)
    status = serve.ended(job)
    assert status["state"] == "failed", dump(status)
    assert status["pilot_error_code"] == 1200
    assert len(serve.finals(job)) == 1


def test_what_is_left_of_a_job_that_has_ended_is_only_removed(serve, life, tmp_path):
    job = serve.submit(command="true")
    assert life("--max-jobs", 1) == 0
    left = tmp_path / f"work/pilot/job-{job}-1-00c0ffee"
    left.mkdir()
    assert life(command=["recover"]) == 0
    assert not left.exists()
    assert serve.status(job)["state"] == "finished"
    assert len(serve.finals(job)) == 1
