"""Each protocol, each thing that can be wrong with a file: the error's class, and the code that PanDA is told.

``pytest -s tests/storage/test_matrix.py`` prints the table as it was found.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot.staging.lanes.lanes import Lanes
from pilot.staging.transfer import Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError
from pilot.values.names import Checksum, Url
from pilot.values.stop import Stop
from tests.storage.small_disk import small_disk
from tests.storage.xrootd_server import XrootdServer

CONTENT = random.Random(6).randbytes(6 << 20)  # more than a small disk holds
GOOD = Checksum("adler32", f"{zlib.adler32(CONTENT):08x}")
BAD = Checksum("adler32", "00000001")

PROTOCOLS = ("root", "roots", "http", "https", "davs", "file")
WEB = ("http", "https", "davs")

DONE = "done"
EXPECTED = {
    "read": DONE,
    "read, empty": DONE,
    "read: another checksum": ("Mismatch", 1171),
    "read: another size": ("Mismatch", 1171),
    "read: missing": ("FileMissing", 1331),
    "read: no permission": ("Denied", 1338),
    "read: local disk full": ("NoSpace", 1098),
    "read: target exists, other": ("Exists", 1221),
    "write": DONE,
    "write, empty": DONE,
    "write: another checksum": ("Mismatch", 1172),
    "write: source missing": ("FileMissing", 1103),
    "write: no permission": ("Denied", 1383),
    "write: target exists, same": DONE,
    "write: target exists, other": ("Exists", 1221),
    "write: storage full": ("NoSpace", 1333),
}
OTHERWISE = {
    # xrootd ends the connection of a PUT without a word when its disk is full (storage-lab.md section 1): that
    # looks like a server that has died, which is worth further tries, and other storages.
    **dict.fromkeys([(protocol, "write: storage full") for protocol in WEB], ("Unreachable", 1137)),
}


@pytest.fixture(scope="module")
def found() -> Iterator[dict[tuple[str, str], object]]:
    """What each cell turned out to be; printed at the end."""
    cells: dict[tuple[str, str], object] = {}
    yield cells
    print(f"\n{'':<28}" + "".join(f"{protocol:<20}" for protocol in PROTOCOLS))
    for case in EXPECTED:
        shown = (cells.get((protocol, case), "-") for protocol in PROTOCOLS)
        print(f"{case:<28}" + "".join(f"{_words(one):<20}" for one in shown))


def _words(cell: object) -> str:
    return " ".join(map(str, cell)) if isinstance(cell, tuple) else str(cell)


class Cell:
    """One protocol and one server, and a place for local files."""

    def __init__(self, protocol: str, server: XrootdServer, lanes: Lanes, stop: Stop, here: Path) -> None:
        self._protocol = protocol
        self._server = server
        self._lanes = lanes
        self._stop = stop
        self.here = here
        self.folder = f"matrix/{here.name}"

    def url(self, path: str) -> str:
        if self._protocol == "file":
            return f"file://{self._server.data}/{self.folder}/{path}"
        return str(getattr(self._server, self._protocol)(f"{self.folder}/{path}"))

    def put(self, path: str, content: bytes = CONTENT) -> Path:
        return self._server.put(f"{self.folder}/{path}", content)

    def small(self):
        return self._server.small_disk(f"{self.folder}/full")

    def read(self, path: str, checksum: Checksum | None = GOOD, size: int | None = None, to: str = "in") -> None:
        target = Url(f"file://{self.here}/{to}")
        self._move(Transfer.plain("f", "in", Url(self.url(path)), target, size, checksum))

    def write(self, path: str, content: bytes | None = CONTENT, checksum: Checksum | None = None) -> None:
        source = self.here / "out"
        if content is not None:
            source.write_bytes(content)
        self._move(Transfer.plain("f", "out", Url(f"file://{source}"), Url(self.url(path)), None, checksum))

    def stored(self, path: str) -> bytes | None:
        file = self._server.data / self.folder / path
        return file.read_bytes() if file.exists() else None

    def _move(self, transfer: Transfer) -> None:
        self._lanes.move(transfer, Deadline.after(60), self._stop)


def _read(cell: Cell) -> None:
    cell.put("f")
    cell.read("f", size=len(CONTENT))
    assert (cell.here / "in").read_bytes() == CONTENT


def _read_empty(cell: Cell) -> None:
    cell.put("f", b"")
    cell.read("f", Checksum("adler32", "00000001"), 0)
    assert (cell.here / "in").read_bytes() == b""


def _read_closed(cell: Cell) -> None:
    cell.put("f").chmod(0)
    cell.read("f")


def _read_full(cell: Cell) -> None:
    cell.put("f")
    (cell.here / "disk").mkdir()
    with small_disk(cell.here / "disk"):
        try:
            cell.read("f", to="disk/in")
        finally:
            assert list((cell.here / "disk").iterdir()) == []


def _read_taken(cell: Cell) -> None:
    cell.put("f")
    (cell.here / "in").write_bytes(b"mine")
    try:
        cell.read("f")
    finally:
        assert (cell.here / "in").read_bytes() == b"mine"


def _with(action: Callable[[Cell], None]) -> Callable[[Cell], None]:
    """The same with the file at its place."""

    def act(cell: Cell) -> None:
        cell.put("f")
        action(cell)

    return act


def _write(content: bytes) -> Callable[[Cell], None]:
    def act(cell: Cell) -> None:
        cell.write("a/b/f", content)
        assert cell.stored("a/b/f") == content

    return act


def _write_closed(cell: Cell) -> None:
    cell.put("closed/other", b"").parent.chmod(0o555)
    cell.write("closed/f")


def _write_taken(cell: Cell) -> None:
    cell.put("f", b"other")
    try:
        cell.write("f")
    finally:
        assert cell.stored("f") == b"other"


def _write_full(cell: Cell) -> None:
    with cell.small():
        try:
            cell.write("full/f")
        finally:
            assert cell.stored("full/f") is None


CASES: dict[str, Callable[[Cell], None]] = {
    "read": _read,
    "read, empty": _read_empty,
    "read: another checksum": _with(lambda cell: cell.read("f", BAD)),
    "read: another size": _with(lambda cell: cell.read("f", size=5)),
    "read: missing": lambda cell: cell.read("nowhere"),
    "read: no permission": _read_closed,
    "read: local disk full": _read_full,
    "read: target exists, other": _read_taken,
    "write": _write(CONTENT),
    "write, empty": _write(b""),
    "write: another checksum": lambda cell: cell.write("f", checksum=BAD),
    "write: source missing": lambda cell: cell.write("f", None),
    "write: no permission": _write_closed,
    "write: target exists, same": _with(lambda cell: cell.write("f")),
    "write: target exists, other": _write_taken,
    "write: storage full": _write_full,
}


@pytest.mark.parametrize("case", EXPECTED)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cell_of_the_matrix(protocol, case, xrootd, open_lanes, stop, tmp_path, found):
    if protocol == "file" and case.endswith("no permission") and os.geteuid() == 0:
        found[protocol, case] = "root may do all"
        return
    cell = Cell(protocol, xrootd, open_lanes(total_s=20.0), stop, tmp_path)

    try:
        CASES[case](cell)
    except StageError as error:
        found[protocol, case] = (type(error).__name__, error.code)
        assert "f: " in str(error)
    else:
        found[protocol, case] = DONE

    assert found[protocol, case] == OTHERWISE.get((protocol, case), EXPECTED[case])
    assert not list(tmp_path.rglob("*.part"))
    if case in ("write: another checksum", "write: source missing"):
        assert cell.stored("f") is None
