"""Several replicas, several destinations, several files: which way is taken, what a failure costs, and who is told."""

from __future__ import annotations

import logging
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot.staging.lanes.lanes import Lanes
from pilot.staging.transfer import Hop, Moved, Route, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Exists, FileMissing, Mismatch, StageError, Stopped, Unreachable
from pilot.values.names import Checksum, Url
from pilot.values.stop import Reason
from tests.storage.fault_server import BODY

SUM = Checksum("adler32", f"{zlib.adler32(BODY):08x}")
CONNECT_S = 1.0
IDLE_S = 1.5


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that answers no connection: its queue of them is full."""
    with socket.socket() as listening, socket.socket() as waiting, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for one in (waiting, second):
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/f"


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Transfer]:
    """A transfer with several sources."""

    def make(*sources: str, name: str = "in.dat") -> Transfer:
        target = Url(f"file://{tmp_path}/work/{name}")
        routes = tuple(Route((Hop(Url(source), target),)) for source in sources)
        return Transfer(name, "in", routes, len(BODY), SUM, link=True)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Transfer]:
    """A transfer with several destinations."""

    def make(*destinations: str, content: bytes = BODY) -> Transfer:
        (tmp_path / "out.dat").write_bytes(content)
        source = Url(f"file://{tmp_path}/out.dat")
        return Transfer("out.dat", "out", tuple(Route((Hop(source, Url(one)),)) for one in destinations))

    return make


@pytest.fixture
def impatient(open_lanes: Callable[..., Lanes]) -> Lanes:
    return open_lanes(connect_s=CONNECT_S, idle_s=IDLE_S)


def whole(tmp_path: Path, name: str = "in.dat") -> bool:
    return (tmp_path / "work" / name).read_bytes() == BODY and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("bad", ["dead", "silent/x", "stalls/x", "flipped/x", "short/x", "code/404/x", "code/403/x"])
def test_the_second_replica_is_used_and_the_log_says_why(
    bad, black_hole, faults, fetch, impatient, stop, tmp_path, caplog
):
    first = black_hole if bad == "dead" else faults.url(bad)

    with caplog.at_level(logging.WARNING):
        moved = impatient.move(fetch(first, faults.url("fine/x")), Deadline.after(60), stop)

    assert moved.route.source == faults.url("fine/x")
    assert whole(tmp_path)
    (failure,) = (record for record in caplog.records if record.getMessage() == "a transfer failed")
    assert failure.keys["seconds"] < max(CONNECT_S, IDLE_S) + 5  # one limit is lost
    assert failure.keys["source"] == first
    assert failure.keys["why"]
    assert {"bytes", "speed", "seconds"} <= set(failure.keys)


def test_a_dead_storage_costs_one_connect_limit_and_not_one_for_each_file(
    black_hole, faults, fetch, open_lanes, stop, tmp_path
):
    lanes = open_lanes(connect_s=CONNECT_S, lanes=1)
    transfers = [fetch(black_hole, faults.url("fine/x"), name=f"in{number}.dat") for number in range(6)]
    began = time.monotonic()

    ends = [end for _, end in lanes.move_all(transfers, Deadline.after(60), stop)]

    assert all(isinstance(end, Moved) for end in ends)
    assert time.monotonic() - began < 4 * CONNECT_S
    assert all(whole(tmp_path, f"in{number}.dat") for number in range(6))


def test_a_dead_storage_that_is_the_only_one_is_asked_all_the_same(faults, fetch, impatient, stop, tmp_path):
    with pytest.raises(Unreachable):
        impatient.move(fetch(faults.url("code/503/x")), Deadline.after(60), stop)

    assert impatient.move(fetch(faults.url("fine/x")), Deadline.after(60), stop).size == len(BODY)


def test_when_no_replica_is_good_the_error_has_each_reason(faults, fetch, impatient, stop, tmp_path):
    with pytest.raises(Mismatch) as caught:
        impatient.move(fetch(faults.url("code/404/x"), faults.url("flipped/x")), Deadline.after(60), stop)

    assert "none of 2 ways worked" in str(caught.value)
    assert "HTTP 404" in str(caught.value)
    assert "the catalogue says" in str(caught.value)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_slow_replica_is_left_for_another_but_is_better_than_none(faults, fetch, open_lanes, stop, tmp_path):
    lanes = open_lanes(slow_s=0.5, slow_bytes_per_s=1e9)

    moved = lanes.move(fetch(faults.url("slow/1000000/x"), faults.url("fine/x")), Deadline.after(60), stop)
    assert moved.route.source == faults.url("fine/x")

    (tmp_path / "work/in.dat").unlink()
    assert lanes.move(fetch(faults.url("slow/3000000/x")), Deadline.after(60), stop).size == len(BODY)


def test_a_server_that_drips_is_a_server_that_stalls(faults, fetch, open_lanes, stop, tmp_path):
    with pytest.raises(StageError, match=r"moved for 0\.5 s, after \d+ bytes") as caught:
        open_lanes(idle_s=0.5).move(fetch(faults.url("slow/100/x")), Deadline.after(60), stop)

    assert caught.value.code == 1151


def test_a_busy_server_is_left_alone_as_long_as_it_asks(faults, fetch, impatient, stop, tmp_path):
    began = time.monotonic()

    impatient.move(fetch(faults.url("busy/1/2/x")), Deadline.after(60), stop)

    assert time.monotonic() - began >= 2  # what Retry-After says


def test_a_second_storage_takes_an_output_that_the_first_one_has_no_room_for(faults, store, lanes, stop):
    moved = lanes.move(store(faults.url("early/507/x"), faults.url("second/x")), Deadline.after(60), stop)

    assert moved.route.destination == faults.url("second/x")
    assert faults.stored["/second/x"] == BODY


def test_an_output_waits_for_its_storage_as_long_as_patience_lasts(faults, store, open_lanes, stop):
    with pytest.raises(Unreachable):
        open_lanes().move(store(faults.url("busy/2/0/a")), Deadline.after(60), stop)
    assert "/busy/2/0/a" not in faults.stored

    open_lanes(patience_s=60.0, total_s=90.0).move(store(faults.url("busy/2/0/b")), Deadline.after(100), stop)

    assert faults.stored["/busy/2/0/b"] == BODY


def test_another_file_at_the_destination_is_no_reason_to_store_it_elsewhere(xrootd, faults, store, lanes, stop):
    xrootd.put("routes-taken/out", b"other")

    with pytest.raises(Exists):
        lanes.move(store(xrootd.root("routes-taken/out"), xrootd.https("routes-taken/out")), Deadline.after(60), stop)


def test_a_file_that_passes_a_near_storage_leaves_nothing_there(xrootd, tmp_path, lanes, stop):
    (tmp_path / "out.dat").write_bytes(BODY)
    near, far = Url(xrootd.root("near/out")), Url(xrootd.https("far/out"))
    hops = (Hop(Url(f"file://{tmp_path}/out.dat"), near, passing=True), Hop(near, far))

    moved = lanes.move(Transfer("out.dat", "out", (Route(hops),)), Deadline.after(60), stop)

    assert moved.checksum == SUM
    assert (xrootd.data / "far/out").read_bytes() == BODY
    assert not (xrootd.data / "near/out").exists()


def test_where_the_way_by_a_near_storage_fails_it_is_cleared_and_the_next_one_is_taken(
    xrootd, faults, tmp_path, lanes, stop
):
    (tmp_path / "out.dat").write_bytes(BODY)
    here, near, far = Url(f"file://{tmp_path}/out.dat"), Url(xrootd.root("near2/out")), Url(xrootd.https("far2/out"))
    broken = Route((Hop(here, near, passing=True), Hop(near, Url(faults.url("code/403/x")))))

    moved = lanes.move(Transfer("out.dat", "out", (broken, Route((Hop(here, far),)))), Deadline.after(60), stop)

    assert moved.route.destination == far
    assert not (xrootd.data / "near2/out").exists()


def test_many_files_go_through_a_few_lanes_and_one_bad_one_costs_none_of_the_others(
    xrootd, fetch, open_lanes, stop, tmp_path
):
    for number in range(60):
        xrootd.put(f"many/{number}", BODY[: 1 << 16])
    target = lambda number: Url(f"file://{tmp_path}/work/{number}")  # noqa: E731
    transfers = [
        Transfer.plain(str(number), "in", Url(xrootd.root(f"many/{number}")), target(number), 1 << 16)
        for number in range(61)  # the last one is not there
    ]
    lanes = open_lanes(lanes=3)

    ends = {transfer.name: end for transfer, end in lanes.move_all(transfers, Deadline.after(60), stop)}

    assert isinstance(ends.pop("60"), FileMissing)
    assert all(isinstance(end, Moved) for end in ends.values())
    assert len(list((tmp_path / "work").iterdir())) == 60
    assert len(lanes.pids()) <= 3


def test_a_lane_that_is_killed_costs_none_of_the_files_that_wait_in_it(faults, fetch, open_lanes, stop, tmp_path):
    lanes = open_lanes(lanes=1)
    killed = []

    def once(_transfer: Transfer, _count: int) -> None:
        if not killed:
            killed.extend(lanes.pids())
            os.kill(killed[0], 9)

    transfers = [fetch(faults.url("fine/x"), name=f"in{number}.dat") for number in range(5)]
    ends = [end for _, end in lanes.move_all(transfers, Deadline.after(60), stop, once)]

    assert killed
    assert all(isinstance(end, Moved) for end in ends)


def test_whoever_stops_listening_ends_what_is_under_way_and_leaves_nothing(faults, fetch, lanes, stop, tmp_path):
    transfers = [fetch(faults.url("fine/x")), fetch(faults.url("stalls/x"), name="late.dat")]

    ends = lanes.move_all(transfers, Deadline.after(60), stop)
    next(ends)
    ends.close()

    assert [path.name for path in (tmp_path / "work").iterdir()] == ["in.dat"]
    assert lanes.move(fetch(faults.url("fine/y"), name="next.dat"), Deadline.after(60), stop).size == len(BODY)


def test_a_stop_ends_all_that_is_under_way(faults, fetch, lanes, stop, tmp_path):
    transfers = [fetch(faults.url("stalls/x"), name=f"in{number}.dat") for number in range(3)]

    with pytest.raises(Stopped):
        for _ in lanes.move_all(transfers, Deadline.after(60), stop, lambda *_: stop.request(Reason.SIGTERM)):
            pass

    assert list((tmp_path / "work").iterdir()) == []
    assert lanes.pids() == set()
