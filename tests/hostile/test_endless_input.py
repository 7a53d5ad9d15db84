"""Inputs that never end: the job fails for the disk budget, and the pilot goes on."""

import pytest

from tests.lab import Run, dump, ended_runs
from tests.storage.fault_server import BODY, FaultServer

LIMIT_MIB = 64


@pytest.fixture
def faults():
    with FaultServer() as server:
        yield server


@pytest.fixture
def pilot(serve, tmp_path):
    with ended_runs() as started:

        def run(jobs):
            environment = {"PILOT_DISK_LIMIT": str(LIMIT_MIB)}
            started.append(Run(serve.url, tmp_path / "work", "--max-jobs", jobs, environment=environment))
            assert started[-1].wait() == 0
            return started[-1]

        yield run


@pytest.mark.parametrize("count", [1, 3])
def test_inputs_without_an_end_fail_for_the_disk_and_the_next_job_is_well(serve, pilot, faults, count):
    endless = [{"name": f"in.{n}", "url": faults.url(f"endless/{n}")} for n in range(count)]
    bad = serve.submit(command="true", inputs=endless)
    good = serve.submit(command="wc -c < in > out", inputs=[{"name": "in", "url": faults.url("fine")}], outputs=["out"])

    pilot(2)

    status = serve.ended(bad)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1098), dump(status)
    assert "too large for the disk" in status["pilot_error_diag"]
    assert "PILOT_DISK_LIMIT" in status["pilot_error_diag"]
    assert status["log"], "the log is stored"
    status = serve.ended(good)
    assert status["state"] == "finished", dump(status)
    assert serve.fetch(status["outputs"][0]["url"]).split() == [str(len(BODY)).encode()]
