"""A payload shuts directories that are ours, or spoils what tells a recoverer that there is a job.

For root nothing is shut: there these tests show that nothing else is broken by it.
"""

import signal

import pytest

from tests.hostile.test_files import LIMIT_S, left, lives, told

__all__ = ["lives"]

SPOILED = {
    "the first record is damaged": "sed -i 1s/life/lift/ ../../journal",
    "the first record is gone": "sed -i 1d ../../journal",
    "the journal may not be read": "chmod 000 ../../journal",
    "the volume may not be entered": "chmod 000 ../..",
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_job_is_found_whatever_says_that_there_was_a_pilot(serve, lives, spoil):
    # Given: a payload that hides its pilot's life from a recoverer, and ends it
    job = serve.submit(command=f"rm -f ../../journal.owner; {spoil}; kill -9 $PPID; sleep 600", outputs=[])
    assert lives.run().wait(LIMIT_S) == -signal.SIGKILL
    # When
    assert left(lives("recover")) == 0
    # Then
    assert told(serve, job)["state"] == "failed"


@pytest.mark.parametrize("mode", ["500", "000"])
@pytest.mark.parametrize("shut", ["../../pilot", "../../pilot/job-*", "../../pilot/job-* ../../pilot"])
def test_a_payload_shuts_directories_of_ours(serve, lives, mode, shut):
    # Given
    jobs = [
        serve.submit(command=f"echo content > out; chmod {mode} {shut}", outputs=["out"]),
        serve.submit(command="echo content > out", outputs=["out"]),
    ]
    # When
    for _ in jobs:
        assert left(lives.run()) == 0
    # Then: neither it nor the next job suffers, and nothing is left
    assert [told(serve, job)["state"] for job in jobs] == ["finished"] * 2
    assert [one.name for one in lives.work.glob("job-*")] == []
    assert [one.name for one in lives.work.glob("pilot*/*")] == []


@pytest.mark.parametrize("mode", ["500", "000"])
def test_a_payload_shuts_the_volume(serve, lives, mode):
    """What is reached by its path is not reached any more: that job may fail, and the next one does not."""
    job = serve.submit(command=f"echo content > out; chmod {mode} ../..", outputs=["out"])
    other = serve.submit(command="echo content > out", outputs=["out"])
    for _ in range(2):
        assert left(lives.run()) == 0
    told(serve, job)
    assert told(serve, other)["state"] == "finished"
    assert [one.name for one in lives.work.glob("job-*")] == []
