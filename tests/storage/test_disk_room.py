"""Inputs whose size nobody knows stop where the disk budget ends, and leave nothing of themselves."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pilot.staging.lanes.diskroom import DiskRoom
from pilot.staging.lanes.lanes import Lanes
from pilot.staging.transfer import Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Mismatch, NoSpace, StageError
from pilot.values.names import Url
from pilot.values.stop import Stop
from tests.storage.fault_server import BODY, FaultServer
from tests.storage.xrootd_server import XrootdServer

MIB = 1 << 20
SAID = "PILOT_DISK_LIMIT"


def an_input(folder: Path, source: str, name: str = "in.dat", size: int | None = None) -> Transfer:
    return Transfer.plain(name, "in", Url(source), Url(f"file://{folder}/work/{name}"), size, None)


def lying(folder: Path) -> int:
    """Bytes below a directory."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


class Watched:
    """Moves files with a budget, and remembers how much has ever lain on the disk."""

    def __init__(self, lanes: Lanes, folder: Path, stop: Stop) -> None:
        self.lanes = lanes
        self.folder = folder / "work"
        self.stop = stop
        self.most = 0
        self.ends: list[object] = []

    def move(self, transfers: list[Transfer], disk: DiskRoom) -> None:
        def look(_transfer: Transfer, _moved: int) -> None:
            self.most = max(self.most, lying(self.folder))

        for _, end in self.lanes.move_all(transfers, Deadline.after(60), self.stop, look, disk=disk):
            self.ends.append(end)
            if isinstance(end, StageError):
                raise end


@pytest.fixture
def watched(lanes: Lanes, tmp_path: Path, stop: Stop) -> Watched:
    return Watched(lanes, tmp_path, stop)


@pytest.fixture
def sources(faults: FaultServer, xrootd: XrootdServer, tmp_path: Path) -> dict[str, str]:
    """A file larger than any budget here, of each protocol."""
    (tmp_path / "large").write_bytes(b"x" * (20 * MIB))
    xrootd.put("large", b"x" * (20 * MIB))
    return {
        "chunks": faults.url("endless/x"),
        "announced": faults.url("huge/20000000"),
        "root": xrootd.root("large"),
        "https": xrootd.https("large"),
        "file": f"file://{tmp_path}/large",
    }


@pytest.mark.parametrize("of", ["chunks", "announced", "root", "https", "file"])
@pytest.mark.parametrize("limit", ["pod", "job"])
def test_an_input_of_unknown_size_stops_at_the_budget(of, limit, sources, watched, tmp_path):
    pod, job = (8 * MIB, None) if limit == "pod" else (100 * MIB, 8 * MIB)

    with pytest.raises(NoSpace) as caught:
        watched.move([an_input(tmp_path, sources[of])], DiskRoom(pod, SAID, job))

    assert caught.value.code == 1098
    assert "in.dat: too large for the disk" in str(caught.value)
    assert ("8 MiB (PILOT_DISK_LIMIT)" if limit == "pod" else "the job asks for 8 MiB") in str(caught.value)
    assert watched.most <= 8 * MIB
    assert not lying(tmp_path / "work")


@pytest.mark.parametrize("budget", [0, 1, 4096, MIB])
def test_a_budget_of_nearly_nothing_is_held(budget, faults, watched, tmp_path):
    with pytest.raises(NoSpace):
        watched.move([an_input(tmp_path, faults.url("endless/x"))], DiskRoom(budget, SAID))

    assert not lying(tmp_path / "work")


def test_several_at_once_share_the_budget(faults, watched, tmp_path):
    transfers = [an_input(tmp_path, faults.url(f"endless/{n}"), f"in.{n}") for n in range(4)]

    with pytest.raises(NoSpace):
        watched.move(transfers, DiskRoom(64 * MIB, SAID))

    assert not lying(tmp_path / "work")


def test_what_is_there_already_leaves_less_for_the_next(faults, open_lanes, stop, tmp_path):
    watched = Watched(open_lanes(lanes=1), tmp_path, stop)
    transfers = [an_input(tmp_path, faults.url(f"fine/{n}"), f"in.{n}") for n in range(3)]

    with pytest.raises(NoSpace):
        watched.move(transfers, DiskRoom(2 * len(BODY) + 1000, SAID))

    assert [isinstance(end, NoSpace) for end in watched.ends] == [False, False, True]
    assert watched.most <= 2 * len(BODY) + 1000


def test_inputs_that_fit_to_the_last_byte_come(faults, watched, tmp_path):
    transfers = [an_input(tmp_path, faults.url("fine/1"), "in.1"), an_input(tmp_path, faults.url("fine/2"), "in.2")]

    watched.move(transfers, DiskRoom(2 * len(BODY), SAID, 2 * len(BODY)))

    assert lying(tmp_path / "work") == 2 * len(BODY)


def test_a_file_that_is_linked_takes_nothing_and_a_copy_does(tmp_path):
    (tmp_path / "large").write_bytes(BODY)
    transfer = an_input(tmp_path, f"file://{tmp_path}/large")
    target = tmp_path / "work/in.dat"
    target.parent.mkdir()
    disk = DiskRoom(1000, SAID)

    target.hardlink_to(tmp_path / "large")
    disk.look(transfer, transfer.routes[0].hops[0])

    target.unlink()
    target.write_bytes(BODY)
    with pytest.raises(NoSpace):
        disk.look(transfer, transfer.routes[0].hops[0])


def test_a_lane_that_was_confined_is_free_for_the_next_file(faults, open_lanes, stop, tmp_path):
    lanes = open_lanes(lanes=1)
    transfers = [an_input(tmp_path, faults.url("fine/1"), "in.1")]
    list(lanes.move_all(transfers, Deadline.after(60), stop, disk=DiskRoom(len(BODY), SAID)))
    process = lanes.pids()

    moved = lanes.move(an_input(tmp_path, faults.url("endlessly/2"), "in.2"), Deadline.after(60), stop)

    assert moved.size == len(BODY)
    assert lanes.pids() == process


@pytest.mark.parametrize("size", [1000, MIB])
def test_an_input_that_declares_less_than_it_sends_stops_at_what_it_declares(size, faults, watched, tmp_path):
    with pytest.raises(Mismatch):
        watched.move([an_input(tmp_path, faults.url("endless/x"), size=size)], DiskRoom(100 * MIB, SAID))

    assert watched.most <= size
    assert not lying(tmp_path / "work")


def test_sizes_that_are_known_to_be_too_much_are_refused_before_a_byte_moves(tmp_path):
    transfers = [an_input(tmp_path, f"https://s/{n}", f"in.{n}", size=6 * MIB) for n in range(2)]

    with pytest.raises(NoSpace, match=r"the inputs have 12 MiB, and the pod may use 8 MiB \(PILOT_DISK_LIMIT\)"):
        DiskRoom(8 * MIB, SAID).check_known(transfers)

    DiskRoom(12 * MIB, SAID).check_known(transfers)


def test_the_word_that_tells_of_the_limit_is_the_systems_own():
    assert os.strerror(errno.EFBIG) == "File too large"
