"""What moving files costs, against xrdcp and curl: each ratio taken side by side, in turns, against one real xrootd.

Our side is `pilot.staging.lanes.lanes` from cold: the transfer processes are started within the time, as the others'
are, but where a row says otherwise. All files lie in memory (/dev/shm, 6 GiB of it), and every target is a new one: on
some machines fresh pages are what takes the time, so that single turns differ much. ``python bench/moving.py`` runs
this part alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' xrootd server

from pilot.staging.lanes.lanes import Lanes, LaneSettings
from pilot.staging.transfer import Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError
from pilot.values.names import Checksum, Url
from pilot.values.stop import Stop
from tests.storage.xrootd_server import XrootdServer

ROUNDS = 5
LARGE_BYTES = 1 << 30
SMALL_BYTES = 10 << 10
SMALL = 1000
ALONE = 100
"""So many files stand for a thousand where each one takes a process of its own."""


class Bench:
    """A server with files, a place for copies, and our lanes."""

    def __init__(self, server: XrootdServer, ca: Path, local: Path) -> None:
        self.server = server
        self.ca = ca
        self.local = local
        self.peak_mib = 0.0
        self.large = server.put("large", os.urandom(1 << 20) * (LARGE_BYTES >> 20))
        (local / "large").write_bytes(self.large.read_bytes())
        for number in range(SMALL):
            server.put(f"small/f{number}", os.urandom(SMALL_BYTES))

    def target(self) -> Path:
        """A directory for copies, empty."""
        folder = self.local / "copies"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def ours(self, transfers: list[Transfer]) -> float:
        """Seconds that we take, from cold."""
        began = time.monotonic()
        with Lanes(LaneSettings(ca_path=str(self.ca))) as lanes, Stop() as stop:
            for _, end in lanes.move_all(transfers, Deadline.never(), stop):
                if isinstance(end, StageError):
                    raise end
            seconds = time.monotonic() - began
            self.peak_mib = max(self.peak_mib, *(_peak_mib(pid) for pid in lanes.pids()))
        return seconds

    def fetch(self, url: str, stored: Path) -> float:
        """Our download of one file, with the catalogue's checksum compared."""
        return self.ours([self._in(url, stored, self.target() / "large")])

    def fetch_small(self) -> float:
        """Our download of all small files."""
        folder = self.target()
        stored = self.server.data / "small"
        return self.ours(
            [
                self._in(self.server.root(f"small/f{number}"), stored / f"f{number}", folder / f"f{number}")
                for number in range(SMALL)
            ]
        )

    def store(self, url: str) -> float:
        """Our upload of the large file, with size and checksum asked of the server."""
        return self.ours([Transfer.plain("large", "out", Url(f"file://{self.local}/large"), Url(url))])

    def send(self, url: str) -> float:
        """The same in a process that is there, as a job has it, and until the server has said that it has the file."""
        source, small = Url(f"file://{self.local}/large"), Url(f"file://{self.local}/ca.pem")
        with Lanes(LaneSettings(ca_path=str(self.ca))) as lanes, Stop() as stop, _Listening() as heard:
            for name, url_there in ((small, f"{url}-small"), (source, url)):
                transfer = Transfer.plain("up", "out", name, Url(url_there), overwrite=True)
                lanes.move(transfer, Deadline.never(), stop)
        return float(heard["seconds"]) - float(heard["verifying"])

    def command(self, *arguments: str) -> float:
        """Seconds of a whole command."""
        began = time.monotonic()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - began

    def curl(self, *arguments: str) -> float:
        """Seconds of curl."""
        return self.command("curl", "-sS", "--fail", "--cacert", str(self.ca), *arguments)

    def _in(self, url: str, stored: Path, target: Path) -> Transfer:
        content = stored.read_bytes()
        checksum = Checksum("adler32", f"{zlib.adler32(content):08x}")
        return Transfer.plain(target.name, "in", Url(url), Url(f"file://{target}"), len(content), checksum)


class _Listening(logging.Handler):
    """What the lanes' log says of the last file that was moved."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._logger = logging.getLogger("pilot.staging")
        self._heard: dict[str, Any] = {}

    def __enter__(self) -> dict[str, Any]:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.DEBUG)
        return self._heard

    def __exit__(self, *_exc: object) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "a file was moved":
            self._heard.update(getattr(record, "keys", {}))


def missing() -> str | None:
    """Why nothing can be moved here, or None."""
    absent = [name for name in ("xrdcp", "xrdadler32", "curl") if shutil.which(name) is None]
    return XrootdServer.missing() or (f"no {', '.join(absent)} here" if absent else None)


def figures() -> dict[str, dict[str, float]]:
    """All ratios (above 1: we are faster), and what they are made of, in seconds."""
    ca = trustme.CA()
    local = Path(tempfile.mkdtemp(prefix="pilot-bench-", dir="/dev/shm"))
    try:
        ca.cert_pem.write_to_path(str(local / "ca.pem"))
        server = XrootdServer(ca)
        _into_memory(server.data, local / "data")
        with server:
            bench = Bench(server, local / "ca.pem", local)
            rows = _large(bench) | _small(bench)
            rows["peak RSS of a transfer process, MiB"] = {"median": bench.peak_mib}
            return rows
    finally:
        shutil.rmtree(local, ignore_errors=True)


def _into_memory(data: Path, memory: Path) -> None:
    """Let a server that has not been started yet keep its files in memory: the disk would be what is measured."""
    owner = data.stat()
    memory.mkdir()
    os.chown(memory, owner.st_uid, owner.st_gid)
    memory.parent.chmod(0o755)
    data.rmdir()
    data.symlink_to(memory)


def _large(bench: Bench) -> dict[str, dict[str, float]]:
    server = bench.server
    root, https, http = server.root("large"), server.https("large"), server.http("up")

    def copy() -> str:
        return str(bench.target() / "large")

    def curl_and_sum() -> float:
        path = copy()
        return bench.curl("-o", path, https) + bench.command("xrdadler32", path)

    def curl_up(*more: str) -> float:
        (server.data / "up").unlink(missing_ok=True)
        return bench.curl("-T", str(bench.local / "large"), http, *more)

    def up() -> float:
        (server.data / "up").unlink(missing_ok=True)
        return bench.store(http)

    def send() -> float:
        (server.data / "up").unlink(missing_ok=True)
        return bench.send(http)

    return (
        _pair(
            "1 GiB root:// with checksum / xrdcp --cksum adler32:source",
            lambda: bench.fetch(root, bench.large),
            lambda: bench.command("xrdcp", "-s", "-f", "--cksum", "adler32:source", root, copy()),
        )
        | _pair(
            "1 GiB https with checksum / curl, then xrdadler32",
            lambda: bench.fetch(https, bench.large),
            curl_and_sum,
        )
        | _pair("1 GiB upload over http, until it is sent, by a running process / curl -T", send, curl_up)
        | _pair("1 GiB upload over http, verified / curl -T, not verified", up, curl_up)
        | _pair(
            "1 GiB upload over http, verified / curl -T, then the server's checksum",
            up,
            lambda: curl_up() + bench.curl("-I", "-H", "Want-Digest: adler32", http),
        )
    )


def _small(bench: Bench) -> dict[str, dict[str, float]]:
    urls = [bench.server.root(f"small/f{number}") for number in range(SMALL)]

    def alone() -> float:
        folder = bench.target()
        return SMALL / ALONE * sum(bench.command("xrdcp", "-s", url, str(folder)) for url in urls[:ALONE])

    def together() -> float:
        return bench.command("xrdcp", "-s", *urls, str(bench.target()))

    return _pair(f"{SMALL} files of 10 KiB / one xrdcp for each", bench.fetch_small, alone, rounds=2) | _pair(
        f"{SMALL} files of 10 KiB / one xrdcp for all", bench.fetch_small, together
    )


def _pair(
    name: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """Both in turns; a ratio for each turn."""
    turns = [(ours(), theirs()) for _ in range(rounds)]
    return {
        f"{name}: ratio": _row([their / our for our, their in turns]),
        f"{name}: ours, s": _row([our for our, _ in turns]),
        f"{name}: theirs, s": _row([their for _, their in turns]),
    }


def _row(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def show(rows: dict[str, Any]) -> None:
    """The rows as a table."""
    print(f"{'figure':<80} {'median':>9} {'min':>9} {'max':>9}")
    for name, row in rows.items():
        cells = (f"{row[key]:9.3f}" if key in row else f"{'':>9}" for key in ("median", "min", "max"))
        print(f"{name:<80}", *cells)


if __name__ == "__main__":
    show(figures())
