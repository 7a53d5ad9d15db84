"""The fake library, compiled once; a table of what came out; and proof that no process is left."""

import os
import time
from pathlib import Path

import psutil
import pytest

from pilot.resources.visible import Visible
from tests.contract.nvml.fake_nvml import FakeNvml, compile_library, missing


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    if reason := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return compile_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fake(library, tmp_path):
    return FakeNvml(library, tmp_path / "lib")


@pytest.fixture
def sysroot(tmp_path) -> Path:
    """A system without devices and without a library of its own."""
    (tmp_path / "root/dev").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def visible(fake):
    """The environment of a pod that has the fake library."""

    def make(**changes) -> Visible:
        return Visible(library_path=str(fake.folder), **changes)

    return make


@pytest.fixture(scope="session")
def table():
    """Rows for people: ``pytest -s``."""
    rows: list[tuple[str, str, float]] = []
    yield rows
    if rows:
        print("\n\n{:<52} {:>6}  {}".format("case", "s", "answer"))
        for case, answer, seconds in sorted(rows):
            print(f"{case:<52} {seconds:6.2f}  {answer}")


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    deadline = time.monotonic() + 2
    while ours := [one for one in psutil.Process().children() if "pilot.resources.nvml" in cmdline(one)]:
        assert time.monotonic() < deadline, ours
        time.sleep(0.02)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
