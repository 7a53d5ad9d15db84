"""Real servers, and lanes with short limits."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from pilot.staging.lanes.attempt import Limits
from pilot.staging.lanes.lanes import Lanes, LaneSettings
from pilot.staging.transfer import Transfer
from pilot.values.names import Checksum, Url
from pilot.values.stop import Stop
from tests.storage.canary import Canary
from tests.storage.fault_proxy import FaultProxy
from tests.storage.fault_server import FaultServer
from tests.storage.tokens import Issuer
from tests.storage.xrootd_server import XrootdServer

LIMITS = ("idle_s", "total_s", "slow_s", "slow_bytes_per_s")


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
    _must_be_here()
    with XrootdServer(ca) as server:
        yield server


@pytest.fixture(scope="session")
def second_xrootd(ca: trustme.CA) -> Iterator[XrootdServer]:
    """Another one that anybody may use, for copies from server to server."""
    _must_be_here()
    with XrootdServer(ca) as server:
        yield server


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def guarded(ca: trustme.CA, issuer: Issuer) -> Iterator[XrootdServer]:
    """One that asks for tokens of the issuer; below /pub http may read without."""
    _must_be_here(guarded=True)
    with XrootdServer(ca, issuer) as server:
        yield server


@pytest.fixture(scope="session")
def guarded_fetcher(ca: trustme.CA, issuer: Issuer) -> Iterator[XrootdServer]:
    """Another guarded one, which has a token of its own to fetch from others by root://."""
    _must_be_here(guarded=True)
    with XrootdServer(ca, issuer, own_token=issuer.token()) as server:
        yield server


def _must_be_here(*, guarded: bool = False) -> None:
    if reason := XrootdServer.missing(guarded=guarded):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def secure_faults(ca: trustme.CA) -> Iterator[FaultServer]:
    """The same behind TLS: a client may keep its token from a server without."""
    with FaultServer(ca) as server:
        yield server


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as server:
        yield server


@pytest.fixture
def secure_canary(ca: trustme.CA) -> Iterator[Canary]:
    with Canary(ca=ca) as server:
        yield server


@pytest.fixture
def proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Puts a faulty proxy in front of a port, until the test ends: `FaultProxy`'s arguments."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(FaultProxy(*args, **kwargs))


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as stop:
        yield stop


@pytest.fixture
def open_lanes(ca_path: str) -> Iterator[Callable[..., Lanes]]:
    """Lanes with our CA and limits for impatient people."""
    opened: list[Lanes] = []

    def start(**changes: object) -> Lanes:
        wallet = changes.pop("wallet", None)
        limits = {name: changes.pop(name) for name in LIMITS if name in changes}
        impatient = Limits(**{"idle_s": 20.0, "total_s": 40.0} | limits)  # type: ignore[arg-type]
        settings = {"ca_path": ca_path, "connect_s": 3.0, "limits": impatient} | changes
        opened.append(Lanes(LaneSettings(**settings), wallet))  # type: ignore[arg-type]
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
        return Transfer.plain("in.dat", "in", Url(source), Url(f"file://{tmp_path}/{target}"), size, checksum)

    return make


@pytest.fixture
def upload(tmp_path: Path) -> Callable[..., Transfer]:
    """A transfer of a file with ``content`` out of the work directory."""

    def make(destination: str, content: bytes) -> Transfer:
        (tmp_path / "out.dat").write_bytes(content)
        return Transfer.plain("out.dat", "out", Url(f"file://{tmp_path}/out.dat"), Url(destination), None, None)

    return make


def adler32(content: bytes) -> Checksum:
    return Checksum("adler32", f"{zlib.adler32(content):08x}")
