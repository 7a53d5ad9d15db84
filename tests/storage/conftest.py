"""Real servers, and lanes with short limits."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from pilot.staging.lanes import Lanes, LaneSettings
from pilot.staging.transfer import Transfer
from pilot.values.names import Checksum, Url
from pilot.values.stop import Stop
from tests.storage.fault_server import FaultServer
from tests.storage.xrootd_server import XrootdServer


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_path(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def xrootd(ca: trustme.CA) -> Iterator[XrootdServer]:
    if reason := XrootdServer.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with XrootdServer(ca) as server:
        yield server


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as stop:
        yield stop


@pytest.fixture
def open_lanes(ca_path: str) -> Iterator[Callable[..., Lanes]]:
    """Lanes with our CA and limits for impatient people."""
    opened: list[Lanes] = []

    def start(**changes: object) -> Lanes:
        limits = {"ca_path": ca_path, "connect_s": 3.0, "idle_s": 20.0, "total_s": 40.0} | changes
        opened.append(Lanes(LaneSettings(**limits)))  # type: ignore[arg-type]
        return opened[-1]

    yield start
    for lanes in opened:
        lanes.close()


@pytest.fixture
def lanes(open_lanes: Callable[..., Lanes]) -> Lanes:
    return open_lanes()


@pytest.fixture
def download(tmp_path: Path) -> Callable[..., Transfer]:
    """A transfer into the work directory."""

    def make(source: str, content: bytes | None = None, target: str = "work/in.dat") -> Transfer:
        size, checksum = (len(content), adler32(content)) if content is not None else (None, None)
        return Transfer("in.dat", "in", Url(source), Url(f"file://{tmp_path}/{target}"), size, checksum)

    return make


@pytest.fixture
def upload(tmp_path: Path) -> Callable[..., Transfer]:
    """A transfer of a file with ``content`` out of the work directory."""

    def make(destination: str, content: bytes) -> Transfer:
        (tmp_path / "out.dat").write_bytes(content)
        return Transfer("out.dat", "out", Url(f"file://{tmp_path}/out.dat"), Url(destination), None, None)

    return make


def adler32(content: bytes) -> Checksum:
    return Checksum("adler32", f"{zlib.adler32(content):08x}")
