"""What a misbehaving server, a stop or a killed process does to a transfer, and what it leaves behind."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot.staging.lanes.lanes import Lanes
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import (
    Denied,
    FileMissing,
    Mismatch,
    NoSpace,
    StageError,
    Stalled,
    Stopped,
    Unreachable,
)
from pilot.values.names import Url
from pilot.values.stop import Reason, Stop
from tests.storage.fault_server import BODY


@pytest.fixture
def move(lanes: Lanes, stop: Stop) -> Callable[[Transfer], Moved]:
    return lambda transfer: lanes.move(transfer, Deadline.after(60), stop)


def ends(pidfd: int, within_s: float) -> bool:
    return bool(select.select([pidfd], [], [], within_s)[0])


def nothing_is_left(transfer: Transfer) -> bool:
    folder = Path(transfer.routes[0].destination.path).parent
    return not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("path", ["redirect/301/x", "redirect/302/x", "redirect/303/x", "redirect/307/x", "once/x"])
def test_redirects_are_followed_and_a_busy_server_is_asked_again(path, faults, download, move):
    moved = move(download(faults.url(path), BODY))

    assert moved.checksum.value == f"{zlib.adler32(BODY):08x}"


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("loop/x", StageError, "more than 5 redirects"),
        ("elsewhere/x", StageError, "not followed"),
        ("code/401/x", Denied, "HTTP 401"),
        ("code/410/x", FileMissing, "HTTP 410"),
        ("code/412/x", StageError, "HTTP 412"),
        ("code/507/x", NoSpace, "HTTP 507"),
        ("code/503/x?authz=hidden", Unreachable, "/code/503/x: HTTP 503"),
        ("short/x", Unreachable, "IncompleteRead"),
        ("flipped/x", Mismatch, "the catalogue says"),
    ],
)
def test_a_fault_has_its_own_word_and_leaves_nothing(path, error, words, faults, download, move):
    transfer = download(faults.url(path), BODY)

    with pytest.raises(error, match=words) as caught:
        move(transfer)

    assert "hidden" not in str(caught.value)
    assert nothing_is_left(transfer)


def test_a_wrong_digest_of_the_server_counts_where_the_catalogue_has_none(faults, download, move):
    with pytest.raises(Mismatch):
        move(download(faults.url("lies/x")))


def test_bytes_that_came_wrong_are_fetched_once_more(faults, download, move):
    with pytest.raises(Mismatch):
        move(download(faults.url("flipped/x"), BODY))

    assert faults.requests == ["/flipped/x"] * 2


def test_what_is_denied_is_not_asked_for_again(faults, download, move):
    with pytest.raises(Denied):
        move(download(faults.url("code/403/x"), BODY))

    assert faults.requests == ["/code/403/x"]


@pytest.mark.parametrize("fault", ["stalls", "silent"])
def test_a_server_that_stalls_is_given_up_at_the_idle_limit(fault, faults, download, open_lanes, stop):
    transfer = download(faults.url(f"{fault}/x"), BODY)

    with pytest.raises(Stalled) as caught:
        open_lanes(idle_s=1.0).move(transfer, Deadline.after(20), stop)

    assert caught.value.code == 1151
    assert faults.requests[:3] == [f"/{fault}/x"] * 3
    assert nothing_is_left(transfer)


def test_the_callers_deadline_ends_a_transfer_and_is_named(faults, download, lanes, stop):
    transfer = download(faults.url("stalls/x"), BODY)

    with pytest.raises(Stalled, match=r"the time that was left is over"):
        lanes.move(transfer, Deadline.after(0.7), stop)

    assert nothing_is_left(transfer)


def test_the_total_limit_ends_a_transfer_and_is_named(faults, download, open_lanes, stop):
    with pytest.raises(Stalled, match=r"not done within 0\.7 s"):
        open_lanes(total_s=0.7).move(download(faults.url("stalls/x"), BODY), Deadline.never(), stop)


def test_a_stop_ends_a_transfer_at_once(faults, download, lanes, stop):
    transfer = download(faults.url("stalls/x"), BODY)
    seen = []

    def ask(moved: int) -> None:
        seen.append((moved, os.pidfd_open(*lanes.pids())))
        stop.request(Reason.SIGTERM)

    began = time.monotonic()
    with pytest.raises(Stopped):
        lanes.move(transfer, Deadline.after(60), stop, ask)

    assert time.monotonic() - began < 10
    moved, process = seen[0]
    assert moved > 0
    assert ends(process, 0)
    os.close(process)
    assert nothing_is_left(transfer)


def test_after_a_stop_there_is_no_second_try(faults, download, lanes, stop):
    faults.on_request = lambda: stop.request(Reason.SIGTERM)

    with pytest.raises(Stopped):
        lanes.move(download(faults.url("code/503/x"), BODY), Deadline.after(60), stop)

    assert faults.requests == ["/code/503/x"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where the system lets us have one."""
    disk = tmp_path / "work"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_as_such_and_stays_empty(faults, download, move, small_disk):
    with pytest.raises(NoSpace) as caught:
        move(download(faults.url("fine/x"), BODY))

    assert caught.value.code == 1098
    assert list(small_disk.iterdir()) == []


def test_a_killed_lane_costs_one_transfer_only(faults, download, lanes, stop):
    transfer = download(faults.url("stalls/x"), BODY)
    with pytest.raises(Unreachable, match=r"the transfer process died .*signal 9"):
        lanes.move(transfer, Deadline.after(60), stop, lambda _: os.kill(*lanes.pids(), signal.SIGKILL))
    assert nothing_is_left(transfer)

    assert lanes.move(download(faults.url("fine/x"), BODY), Deadline.after(60), stop).size == len(BODY)


def test_a_lane_that_is_killed_once_costs_no_transfer(faults, download, lanes, stop):
    kills = []

    def once(_moved):
        if not kills:
            kills.append(True)
            os.kill(*lanes.pids(), signal.SIGKILL)

    assert lanes.move(download(faults.url("fine/x"), BODY), Deadline.after(60), stop, once).size == len(BODY)
    assert kills


def test_an_idle_lane_leaves_and_the_next_transfer_has_a_new_one(faults, download, open_lanes, stop):
    lanes = open_lanes(keep_s=0.2)
    lanes.warm([Url("http://127.0.0.1/f")])
    process = os.pidfd_open(*lanes.pids())
    assert ends(process, 10)
    os.close(process)

    assert lanes.move(download(faults.url("fine/x"), BODY), Deadline.after(60), stop).size == len(BODY)


def test_an_order_that_meets_a_leaving_lane_is_sent_again(faults, download, open_lanes, stop):
    # No patience at all: every lane is on its way out when the order arrives, or just before.
    lanes = open_lanes(keep_s=0.02)

    for _ in range(10):
        lanes.warm()
        assert lanes.move(download(faults.url("fine/x"), BODY), Deadline.after(60), stop).size == len(BODY)


def test_a_lane_does_not_outlive_its_parent_even_in_the_middle_of_a_file(faults, tmp_path):
    script = """if True:
        import sys
        from pilot.staging.lanes.lanes import Lanes, LaneSettings
        from pilot.staging.transfer import Transfer
        from pilot.values.deadline import Deadline
        from pilot.values.names import Url
        from pilot.values.stop import Stop
        lanes = Lanes(LaneSettings())
        transfer = Transfer.plain("x", "in", Url(sys.argv[1]), Url(sys.argv[2]))
        lanes.move(transfer, Deadline.never(), Stop(), lambda _: print(*lanes.pids(), flush=True))
    """
    command = [sys.executable, "-c", script, faults.url("stalls/x"), f"file://{tmp_path}/x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        lane = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()

    assert ends(lane, 10)
    os.close(lane)


def test_an_upload_that_is_stored_short_is_a_mismatch_and_is_deleted(faults, upload, move):
    with pytest.raises(Mismatch) as caught:
        move(upload(faults.url("shortput/x"), BODY))

    assert caught.value.code == 1172
    assert set(faults.deleted) == {"/shortput/x"}
    assert "/shortput/x" not in faults.stored


def test_an_upload_without_an_answer_is_deleted_and_tried_again(faults, upload, move):
    with pytest.raises(Unreachable):
        move(upload(faults.url("dropput/x"), BODY))

    assert faults.deleted[-1:] == ["/dropput/x"]


def test_an_upload_follows_a_redirect_with_its_body(faults, upload, move):
    moved = move(upload(faults.url("movedput/x"), b"small"))

    assert faults.stored == {"/landed/file": b"small"}
    assert moved.size == 5


def test_what_a_killed_upload_left_is_deleted_by_the_next_lane(faults, upload, lanes, stop):
    with pytest.raises(Stopped):
        lanes.move(
            upload(faults.url("stuckput/x"), BODY * 4), Deadline.after(60), stop, lambda _: stop.request(Reason.SIGTERM)
        )

    assert faults.deleted == ["/stuckput/x"]


def test_lanes_can_be_closed_twice_and_used_again(faults, download, lanes, stop):
    lanes.warm()
    lanes.close()
    lanes.close()
    lanes.retire()

    assert lanes.pids() == set()
    assert lanes.move(download(faults.url("fine/x"), BODY), Deadline.after(60), stop).size == len(BODY)
