"""Each fault of storage-lab.md section 5, in front of a real server and as a server of its own.

What must hold is the same everywhere: the file is good or the failure is told, no attempt outlives its limit by
more than 5 s, and nothing partial is left. Most of a fault's time is waiting for a limit, so all faults are
tried at once, some at a time. ``pytest -s`` prints what each one came to.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pilot.staging.lanes.attempt import Limits
from pilot.staging.lanes.lanes import Lanes, LaneSettings
from pilot.staging.transfer import Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError
from pilot.values.names import Checksum, Url
from pilot.values.stop import Stop
from tests.storage.fault_proxy import FaultProxy
from tests.storage.fault_server import BODY, FaultServer
from tests.storage.xrootd_server import XrootdServer

AT_ONCE = 6
LIMITS = Limits(idle_s=1.5, total_s=5.0)
SLACK_S = 5.0

CONTENT = random.Random(8).randbytes(12 << 20)
SUMS = {content: Checksum("adler32", f"{zlib.adler32(content):08x}") for content in (CONTENT, BODY)}

SCHEMES = ("root", "roots", "http", "https")
LINES = {
    "pass": ("pass", 0),
    "cut": ("cut", 5 << 20),
    "cut at once": ("cut", 10),
    "reset": ("rst", 5 << 20),
    "stall": ("stall", 5 << 20),
    "flip": ("flip", 5 << 20),
    "slow": ("slow", 300_000),
    "drip": ("slow", 500),
    "flaky": ("flaky", 1),
    "black hole": ("blackhole", 0),
}
UPWARD = {name: (mode, min(count, 3 << 20)) for name, (mode, count) in LINES.items()}
HARMLESS = ("pass", "flaky")

DOWNLOADS = (
    "trunc/1000000",
    "truncnolen/1000000",
    "truncchunk/1000000",
    "rst/1000000",
    "flip/1000000",
    "long/1000",
    "longchunk/1000",
    "overlong/1000",
    "endless",
    "stall/1000000",
    "nohdr",
    "slow/1000",
    "code/503",
    "loop",
    "gzip",
)
UPLOADS = (
    "shortput",
    "corruptput",
    "lostput",
    "lyingput",
    "dropput",
    "stuckput",
    "cutput/100000",
    "fullput/100000",
    "early/507",
    "early/403",
    "slowput/1000",
)


@dataclass
class End:
    """How a fault came out: the error if there was one, how long it took, and what lies at the target."""

    error: StageError | None
    seconds: float
    target: bytes | None
    partial: list[Path]

    def good_or_told(self, content: bytes) -> None:
        assert self.seconds < LIMITS.total_s + SLACK_S
        assert self.target == (content if self.error is None else None)
        assert self.partial == []


class Damage:
    """Runs the faults; each in a thread and a directory of its own."""

    def __init__(self, server: XrootdServer, folder: Path, ca_path: str) -> None:
        self._server = server
        self._folder = folder
        self._ca_path = ca_path
        server.put("damage/f", CONTENT)

    def cases(self) -> dict[tuple[str, ...], Callable[[Path], End]]:
        both = [(scheme, line) for scheme in SCHEMES for line in LINES]
        return {
            **{("in", *case): lambda here, case=case: self._in(here, *case) for case in both},
            **{("out", *case): lambda here, case=case: self._out(here, *case) for case in both},
            **{("get", fault): lambda here, fault=fault: self._get(here, fault) for fault in DOWNLOADS},
            **{("put", fault): lambda here, fault=fault: self._put(here, fault) for fault in UPLOADS},
        }

    def run(self, case: tuple[str, ...], act: Callable[[Path], End]) -> End:
        here = self._folder / "-".join(case).replace("/", "-").replace(" ", "-")
        here.mkdir()
        return act(here)

    def _in(self, here: Path, scheme: str, line: str) -> End:
        with self._between(scheme, *LINES[line], upward=False) as (_, url):
            return self._fetch(here, url("damage/f"), CONTENT)

    def _out(self, here: Path, scheme: str, line: str) -> End:
        path = f"damage/{here.name}"
        (here / "f").write_bytes(CONTENT)
        with self._between(scheme, *UPWARD[line], upward=True) as (_, url):
            end = self._move(here, Transfer.plain("f", "out", Url(f"file://{here}/f"), Url(url(path))))
        stored = self._server.data / path
        end.target = stored.read_bytes() if stored.exists() else None
        return end

    def _get(self, here: Path, fault: str) -> End:
        with FaultServer() as server:
            return self._fetch(here, server.url(f"{fault}/x"), BODY)

    def _put(self, here: Path, fault: str) -> End:
        (here / "f").write_bytes(BODY)
        with FaultServer() as server:
            url = server.url(f"{fault}/x")
            end = self._move(here, Transfer.plain("f", "out", Url(f"file://{here}/f"), Url(url)))
            deleted = f"/{fault}/x" in server.deleted
            end.target = None if deleted else server.stored.get(f"/{fault}/x")
        return end

    def _between(self, scheme: str, mode: str, count: int, *, upward: bool):
        port = self._server.root_port if "root" in scheme else self._server.web_port
        return _Proxied(FaultProxy(port, mode, count, upward=upward), scheme)  # type: ignore[arg-type]

    def _fetch(self, here: Path, url: str, content: bytes) -> End:
        target = here / "work/f"
        transfer = Transfer.plain("f", "in", Url(url), Url(f"file://{target}"), len(content), SUMS[content])
        end = self._move(here, transfer)
        end.target = target.read_bytes() if target.exists() else None
        return end

    def _move(self, here: Path, transfer: Transfer) -> End:
        settings = LaneSettings(ca_path=self._ca_path, connect_s=1.5, limits=LIMITS)
        error = None
        began = time.monotonic()
        with Lanes(settings) as lanes, Stop() as stop:
            try:
                lanes.move(transfer, Deadline.after(60), stop)
            except StageError as caught:
                error = caught
            seconds = time.monotonic() - began
        return End(error, seconds, None, list(here.rglob("*.part")))


class _Proxied:
    """A proxy while it runs, and the URLs by way of it."""

    def __init__(self, proxy: FaultProxy, scheme: str) -> None:
        self._proxy = proxy
        self._scheme = scheme

    def __enter__(self) -> tuple[FaultProxy, Callable[[str], str]]:
        port = self._proxy.__enter__().port
        host = "localhost" if self._scheme in ("https", "roots") else "127.0.0.1"
        return self._proxy, lambda path: f"{self._scheme}://{host}:{port}//{path}"

    def __exit__(self, *exc: object) -> None:
        self._proxy.__exit__(*exc)


@pytest.fixture(scope="module")
def ends(xrootd, ca_path, tmp_path_factory) -> Iterator[dict[tuple[str, ...], Future[End]]]:
    damage = Damage(xrootd, tmp_path_factory.mktemp("damage"), ca_path)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way = {case: pool.submit(damage.run, case, act) for case, act in damage.cases().items()}
        yield under_way
    for case, end in under_way.items():
        found = end.result()
        verdict = f"{found.error.code}  {found.error}" if found.error else "good"
        print(f"\n{' '.join(case):<28}{found.seconds:6.1f} s  {verdict}", end="")


@pytest.mark.timeout(300)  # the first one waits for others, too
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_broken_line_gives_a_good_file_or_a_failure(direction, scheme, line, ends):
    end = ends[direction, scheme, line].result()

    end.good_or_told(CONTENT)
    assert line not in HARMLESS or end.error is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", DOWNLOADS)
def test_a_bad_web_server_gives_a_good_file_or_a_failure(fault, ends):
    ends["get", fault].result().good_or_told(BODY)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", UPLOADS)
def test_a_bad_web_server_keeps_nothing_of_a_failed_upload(fault, ends):
    end = ends["put", fault].result()

    end.good_or_told(BODY)
    assert end.error is not None
