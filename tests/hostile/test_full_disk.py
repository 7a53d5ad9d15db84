"""A volume that the payload has filled: the diagnosis names the disk, the log is stored, a good job has its outputs."""

import io
import tarfile

import pytest

from tests.lab import Run, dump, ended_runs
from tests.storage.small_disk import small_disk

SIZE_MIB = 24


@pytest.fixture
def pilot(serve, tmp_path):
    """Runs one pilot on a small volume."""
    work = tmp_path / "work"
    work.mkdir()
    with small_disk(work, SIZE_MIB), ended_runs() as started:

        def run():
            started.append(Run(serve.url, work, "--max-jobs", 1))
            assert started[-1].wait() == 0
            return started[-1]

        yield run


def log_of(serve, status):
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(status["log"]))) as tar:
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in tar}


FILL = "cat /dev/zero > {file} 2>/dev/null"


@pytest.mark.parametrize(
    "command",
    [
        FILL.format(file="junk") + "; exit 1",
        FILL.format(file="../tmp/junk") + "; exit 1",
        "for i in 1 2 3 4; do mkdir d$i; " + FILL.format(file="d$i/junk") + "; done; false",
        "cat /dev/zero",
        "i=0; while : > f$i; do i=$((i+1)); done 2>/dev/null; exit 4",
    ],
)
def test_a_payload_that_fills_the_disk_fails_for_that_and_its_log_is_stored(serve, pilot, command):
    job = serve.submit(command=command)
    pilot()
    status = serve.ended(job)
    assert status["state"] == "failed"
    assert status["pilot_error_code"] == 1098, dump(status)
    assert "disk" in status["pilot_error_diag"]
    assert "payload ended" in log_of(serve, status)["pilot.log"].decode()


def test_a_good_payload_that_leaves_a_full_disk_has_finished(serve, pilot):
    job = serve.submit(command=f"echo content > out; {FILL.format(file='junk')}; exit 0", outputs=["out"])
    pilot()
    status = serve.ended(job)
    assert status["state"] == "finished", dump(status)
    assert serve.fetch(status["outputs"][0]["url"]) == b"content\n"
    assert "payload ended exit_code=0" in log_of(serve, status)["pilot.log"].decode()


def test_a_disk_filled_by_somebody_else_costs_the_length_of_the_log_and_not_the_log(serve, pilot):
    job = serve.submit(
        command="head -c 3000000 /dev/urandom; echo content > out; " + FILL.format(file="../../others") + "; exit 0",
        outputs=["out"],
    )
    pilot()
    status = serve.ended(job)
    assert status["state"] == "finished", dump(status)
    assert b"bytes left out here" in log_of(serve, status)["payload.stdout"]
