"""An old file keeps its place until the new one is whole, and no file is its own source."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pilot.staging.order import Around, Done, Order, Side, partial_path, partial_url
from pilot.staging.transfer import Hop, Route, Transfer
from pilot.staging.worker.copy import copy
from pilot.staging.worker.same import refuse_same
from pilot.values.deadline import Deadline
from pilot.values.errors import Denied, Mismatch, StageError, Stopped, TransferFailed
from pilot.values.names import Url
from pilot.values.stop import Reason, Stop
from tests.storage.fault_proxy import FaultProxy
from tests.storage.plain_store import PlainStore, Ways
from tests.storage.test_optional import Told

OLD, NEW = b"the old file, which somebody wants", bytes(range(256)) * 2000
SUM = ("adler32", f"{zlib.adler32(NEW):08x}")
WRONG = ("adler32", "12345678")


@pytest.fixture
def around(ca_path: str) -> Around:
    return Around(connect_s=3, idle_s=10, keep_s=5, ca_path=ca_path, http_proxy="")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def store() -> Iterator[Callable[..., PlainStore]]:
    with ExitStack() as stack:
        yield lambda **ways: stack.enter_context(PlainStore(Ways(**ways), old=OLD, new=NEW))


@pytest.fixture
def over(around: Around, told: Told, tmp_path: Path):
    """Copy over what is there; a word without a scheme is a local file."""

    def over(source: str, target: str, how: str = "", **changes: object) -> Done:
        sides = [Side(one if ":" in one else f"file://{tmp_path}/{one}") for one in (source, target)]
        return copy(Order(*sides, None, None, False, True, how)._replace(**changes), told, around)

    (tmp_path / "new").write_bytes(NEW)
    return over


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# The old file keeps its place


@pytest.mark.parametrize("refused", [{}, {"MOVE": 405}, {"MOVE": 501}, {"MOVE": 403}, {"HEAD": 405}, {"HEAD": 403}])
@pytest.mark.parametrize(("source", "how"), [("new", ""), ("/new", ""), ("/new", "pull"), ("/new", "push")])
def test_a_file_takes_the_place_of_another(source, how, refused, store, over):
    server = store(refused=refused)

    done = over(server.url("new") if source == "/new" else source, server.url("old"), how)

    assert (done.size, server.files) == (len(NEW), {"/old": NEW, "/new": NEW})


@pytest.mark.parametrize("refused", [{}, {"MOVE": 405}])
@pytest.mark.parametrize("how", ["", "pull", "push"])
def test_a_source_that_turns_out_bad_costs_nobody_the_old_file(how, refused, store, over):
    server = store(refused=refused)

    with pytest.raises(Mismatch):
        over(server.url("new"), server.url("old"), how, checksum=WRONG)
    with pytest.raises(StageError):
        over(server.url("nowhere"), server.url("old"), how)
    if not how:
        with pytest.raises(Mismatch):
            over("new", server.url("old"), checksum=WRONG)

    assert server.files == {"/old": OLD, "/new": NEW}


@pytest.mark.parametrize("path", ["short/x", "truncchunk/1000", "flipped/x", "code/500", "code/403", "longchunk/7"])
@pytest.mark.parametrize("refused", [{}, {"MOVE": 405}])
def test_a_source_that_breaks_off_costs_nobody_the_old_file(refused, path, store, faults, over):
    server = store(refused=refused)

    with pytest.raises(StageError):
        over(faults.url(path), server.url("old"), size=3 << 20, checksum=SUM)

    assert server.files == {"/old": OLD, "/new": NEW}


@pytest.mark.parametrize("spoils", [lambda content: content[:-1], lambda content: b"x" + content[1:], lambda _: b""])
@pytest.mark.parametrize("how", ["", "pull"])
def test_a_storage_that_spoils_what_it_takes_keeps_the_old_file(how, spoils, store, over):
    server = store(spoils=spoils)

    with pytest.raises(Mismatch):
        over(server.url("new") if how else "new", server.url("old"), how)

    assert server.files == {"/old": OLD, "/new": NEW}


@pytest.mark.parametrize(
    "end", [b"failure: the other one is gone", b"aborted: by the other one", b"FAILED : no luck", b""]
)
@pytest.mark.parametrize("refused", [{}, {"MOVE": 405}])
def test_a_third_party_copy_that_fails_costs_nobody_the_old_file(refused, end, store, over):
    server = store(end=end, refused=refused, spoils=lambda content: content[:5])

    with pytest.raises(StageError):
        over(server.url("new"), server.url("old"), "pull")

    assert server.files == {"/old": OLD, "/new": NEW}


def test_an_upload_that_is_cut_costs_nobody_the_old_file(store, over):
    server = store(cuts={".part": 1000})

    with pytest.raises(StageError):
        over("new", server.url("old"))

    assert server.files == {"/old": OLD, "/new": NEW}


@pytest.mark.parametrize(("cut", "left"), [(1000, None), (0, OLD)])
def test_half_a_file_over_an_old_one_is_removed_and_an_old_one_that_is_left_stays(cut, left, store, over):
    # A server that gives no new names: what it does with a body that breaks off is its own affair.
    server = store(cuts={"old": cut} if cut else {}, refused={"MOVE": 405} | ({} if cut else {"PUT": 500}))

    with pytest.raises(StageError):
        over("new", server.url("old"))

    assert server.files.get("/old") == left
    assert not [name for name in server.files if name.endswith(".part")]


def test_a_server_that_only_says_that_it_renames_is_found_out(store, over):
    server = store(refused={"MOVE": 201})

    assert over("new", server.url("old")).size == len(NEW)

    assert server.files == {"/old": NEW, "/new": NEW}


def test_the_rest_of_a_broken_copy_of_ours_is_written_over_without_ado(store, over):
    server = store()

    over("new", server.url("old"), ours=True)

    assert (server.files["/old"], server.methods.count("MOVE")) == (NEW, 0)


def test_what_an_earlier_life_has_left_beside_it_is_no_obstacle(store, over, tmp_path):
    server = store()
    beside = partial_url(f"file://{tmp_path}/new", server.url("old"))
    server.files["/" + beside.rpartition("/")[2]] = b"half of"

    over("new", server.url("old"))

    assert server.files == {"/old": NEW, "/new": NEW}


@pytest.mark.parametrize("scheme", ["root", "https", "davs", "http"])
def test_a_real_storage_keeps_the_old_file_until_the_new_one_is_whole(scheme, xrootd, over):
    folder = f"replaced/{scheme}"
    path = xrootd.put(f"{folder}/old", OLD)
    inode = path.stat().st_ino

    with pytest.raises(Mismatch):
        over("new", getattr(xrootd, scheme)(f"{folder}/old"), checksum=WRONG)
    assert (path.read_bytes(), path.stat().st_ino, names(path.parent)) == (OLD, inode, ["old"])

    done = over("new", getattr(xrootd, scheme)(f"{folder}/old"))
    assert (path.read_bytes(), names(path.parent), done.verified) == (NEW, ["old"], "checksum")
    assert xrootd.adler32(f"{folder}/old") == SUM[1]


@pytest.mark.parametrize("scheme", ["root", "http"])
def test_a_third_party_copy_between_real_storages_replaces_and_fails_well(scheme, xrootd, second_xrootd, over):
    xrootd.put(f"from/{scheme}", NEW)
    path = second_xrootd.put(f"tpc-{scheme}/old", OLD)
    source, target = (getattr(xrootd, scheme), getattr(second_xrootd, scheme)(f"tpc-{scheme}/old"))

    with pytest.raises(StageError):
        over(source("nowhere"), target, "pull")
    with pytest.raises(Mismatch):
        over(source(f"from/{scheme}"), target, "pull", checksum=WRONG)
    assert (path.read_bytes(), names(path.parent)) == (OLD, ["old"])

    over(source(f"from/{scheme}"), target, "pull")
    assert (path.read_bytes(), names(path.parent)) == (NEW, ["old"])


@pytest.mark.parametrize(
    ("scope", "stored"),
    [
        ("storage.create:/", OLD),
        ("storage.create:/ storage.read:/", OLD),
        ("storage.read:/", OLD),
        ("storage.modify:/", NEW),
        ("storage.modify:/ storage.read:/", NEW),
    ],
)
def test_what_a_token_may_do_decides_and_nothing_lies_about(scope, stored, guarded, issuer, around, told, tmp_path):
    path = guarded.put(f"token-{len(scope)}-{scope[8]}/old", OLD)
    (tmp_path / "new").write_bytes(NEW)
    target = Side(guarded.https(f"token-{len(scope)}-{scope[8]}/old"), issuer.token(scope))
    order = Order(Side(f"file://{tmp_path}/new"), target, None, None, False, True, "")

    if stored == OLD:
        with pytest.raises(Denied):
            copy(order, told, around)
    else:
        assert copy(order, told, around).verified == ("checksum" if "read" in scope else "answer")

    assert (path.read_bytes(), names(path.parent)) == (stored, ["old"])


@pytest.mark.parametrize("how", ["pull", "push"])
@pytest.mark.parametrize("scope", ["storage.create:/", "storage.create:/ storage.read:/"])
def test_a_token_that_may_not_replace_leaves_no_trace_of_a_third_party_copy(
    scope, how, guarded, guarded_fetcher, issuer, around, told
):
    guarded.put("from/new", NEW)
    path = guarded_fetcher.put(f"kept-{how}-{len(scope)}/old", OLD)
    source = Side(guarded.https("from/new"), issuer.token("storage.read:/"))
    target = Side(guarded_fetcher.https(f"kept-{how}-{len(scope)}/old"), issuer.token(scope))

    with pytest.raises(StageError):
        copy(Order(source, target, None, None, False, True, how), told, around)

    assert (path.read_bytes(), names(path.parent)) == (OLD, ["old"])


# A process that is killed in the middle


@pytest.mark.parametrize("scheme", ["root", "http"])
def test_a_lane_that_is_killed_in_the_middle_leaves_the_old_file_and_no_other(scheme, xrootd, lanes, tmp_path):
    path = xrootd.put(f"killed-{scheme}/old", OLD)
    (tmp_path / "new").write_bytes(NEW * 20)
    with FaultProxy(xrootd.web_port if scheme == "http" else xrootd.root_port, "slow", 1_000_000, upward=True) as proxy:
        url = getattr(proxy, scheme)(f"killed-{scheme}/old")
        with Stop() as stop, pytest.raises(Stopped):
            lanes.move(_overwriting(tmp_path, url), Deadline.after(60), stop, lambda _: stop.request(Reason.SIGTERM))

    assert (path.read_bytes(), names(path.parent)) == (OLD, ["old"])


def test_a_lane_that_writes_over_an_old_file_and_is_killed_clears_nothing_that_may_be_whole(store, lanes, tmp_path):
    server = store(refused={"MOVE": 405})
    (tmp_path / "new").write_bytes(NEW * 20)
    with FaultProxy(server.server_port, "slow", 1_000_000, upward=True) as proxy, Stop() as stop:
        transfer = _overwriting(tmp_path, proxy.http("old"))
        with pytest.raises(Stopped):
            lanes.move(transfer, Deadline.after(60), stop, lambda _: stop.request(Reason.SIGTERM))

    assert server.files == {"/old": OLD, "/new": NEW}


def test_a_local_target_of_a_killed_lane_is_the_old_one(faults, lanes, stop, tmp_path):
    (tmp_path / "old").write_bytes(OLD)
    source, target = Url(faults.url("stall/2000000")), Url(f"file://{tmp_path}/old")
    transfer = Transfer("f", "in", (Route((Hop(source, target),)),), overwrite=True)

    with pytest.raises(Stopped):
        lanes.move(transfer, Deadline.after(60), stop, lambda _: stop.request(Reason.SIGTERM))

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {"old": OLD}


def _overwriting(folder: Path, url: str) -> Transfer:
    return replace(Transfer.plain("f", "out", Url(f"file://{folder}/new"), Url(url)), overwrite=True)


# One file, two spellings


SPELLINGS = [
    ("http://h/d/x", "http://h/d/x"),
    ("http://h/d/x", "http://h//d/x"),
    ("http://h/d/x", "http://h:80/d/./x"),
    ("http://h/d/x", "dav://H/d/x"),
    ("https://h/d/x", "davs://h.:443/d/x"),
    ("https://h/d/x", "https://me@h/d/x?authz=token"),
    ("https://h/d/x?X-Amz-Signature=1", "https://h/d/x?X-Amz-Signature=2"),
    ("https://h/d/x", "https://h/%64/%78"),
    ("https://h/d/%C3%BC", "https://h/d/%c3%bc"),
    ("https://[::1]/d/x", "https://[0:0:0:0:0:0:0:1]/d/x"),
    ("https://localhost/d/x", "https://127.0.0.1/d/x"),
    ("root://h/d/x", "root://h//d/x"),
    ("root://h//d/x", "xroot://H:1094///d//x"),
    ("root://h//d/x", "roots://h//d/x?authz=a"),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
@pytest.mark.parametrize("how", ["", "pull", "push"])
def test_a_file_is_not_copied_over_itself_however_it_is_spelt(how, one, other, over):
    for source, target in ((one, other), (other, one)):
        with pytest.raises(TransferFailed, match="the same file"):
            over(source, target, how)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("root://h//d/%78", "root://h//d/x"),  # xrootd decodes nothing
        ("http://h/d/x", "http://h/d/X"),
        ("http://h/d/x", "http://h:8080/d/x"),
        ("http://h/d/x", "https://h/d/x"),
        ("http://h/d/x", "http://h.example/d/x"),
        ("http://h/d/x", "http://h/d/x%2Fy"),
        ("http://h/d/x", "file:///d/x"),
    ],
)
def test_what_only_looks_alike_is_another_file(one, other):
    refuse_same(Order(Side(one), Side(other), None, None, False, True, ""))


@pytest.mark.parametrize("name", ["x", "d/../x", "symbolic", "through/x", "hard"])
def test_a_local_file_is_not_copied_over_itself_by_any_of_its_names(name, over, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "x").write_bytes(OLD)
    (tmp_path / "symbolic").symlink_to("x")
    (tmp_path / "through").symlink_to(".")
    (tmp_path / "hard").hardlink_to(tmp_path / "x")

    for source, target in (("x", name), (name, "x")):
        with pytest.raises(TransferFailed, match="the same file"):
            over(source, target)

    assert (tmp_path / "x").read_bytes() == OLD


@pytest.mark.parametrize("refused", [{}, {"MOVE": 405}, {"MOVE": 405, "COPY": 201}])
@pytest.mark.parametrize("how", ["", "pull", "push"])
@pytest.mark.parametrize("sums", [True, False])
def test_a_file_by_a_name_that_nobody_sees_through_is_not_lost(sums, how, refused, store, proxy, over):
    # Another port of the same storage, as an alias of its name would be.
    server = store(refused=refused, sums=sums)
    alias = proxy(server.server_port).http("new")

    with pytest.raises(StageError) if how and "COPY" in refused else ExitStack():
        over(alias, server.url("new"), how)

    assert server.files == {"/old": OLD, "/new": NEW}


def test_a_real_storage_does_not_lose_a_file_to_its_other_protocol(xrootd, over):
    path = xrootd.put("protocols/x", NEW)

    over(xrootd.root("protocols/x"), xrootd.http("protocols/x"))
    over(xrootd.http("protocols/x"), xrootd.root("protocols/x"))

    assert (path.read_bytes(), names(path.parent)) == (NEW, ["x"])


# Local files


def test_a_local_file_takes_after_the_one_that_it_replaces(over, tmp_path):
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "old").chmod(0o750)
    if os.geteuid() == 0:
        os.chown(tmp_path / "old", 1234, 4321)
    before = (tmp_path / "old").stat()

    over("new", "old")
    after = (tmp_path / "old").stat()

    assert (tmp_path / "old").read_bytes() == NEW
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize("target", ["old", "old/f"])
def test_a_directory_is_no_target(target, store, over, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "f").mkdir()

    with pytest.raises(StageError):
        over("new", target)
    with pytest.raises(StageError):
        over(store().url("new"), target)

    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_source_with_the_name_of_a_temporary_file_is_not_taken_for_one(overwrite, over, tmp_path):
    (tmp_path / "x.part").write_bytes(NEW)

    over("x.part", "x", overwrite=overwrite)

    assert (tmp_path / "x.part").read_bytes() == (tmp_path / "x").read_bytes() == NEW


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_a_temporary_name_fits_and_is_of_one_source_and_one_target(name):
    one = partial_path("file:///a", f"/d/{name}")

    assert len(os.fsencode(one.rpartition("/")[2])) <= 255
    assert len({one, partial_path("file:///b", f"/d/{name}"), partial_path("file:///a", f"/d/{name[:-1]}")}) == 3
    assert partial_url("http://h/a?token=1", "http://h/d/x?t=2") == partial_url("http://h/a", "http://h/d/x") + "?t=2"
