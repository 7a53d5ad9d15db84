"""What is optional ends nothing: questions that a storage refuses are put in another way, or not at all."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pilot.staging.order import Around, Done, Order, Side
from pilot.staging.worker.copy import copy, find
from pilot.staging.worker.tool import Stat
from pilot.staging.worker.web import http
from pilot.values.errors import Denied, FileMissing, Mismatch, StageError, Unreachable
from tests.storage.plain_store import PlainStore, Ways
from tests.storage.test_xroot import BareServer

CONTENT = bytes(range(256)) * 1000
SUM = f"{zlib.adler32(CONTENT):08x}"


class Told:
    """A report that keeps what people are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def moved(self, total_bytes: int) -> None: ...

    def writing(self, url: str) -> None: ...

    def verifying(self, size: int) -> None: ...

    def note(self, text: str, **keys: object) -> None:
        self.notes.append(f"{text} {keys}")


@pytest.fixture
def around(ca_path: str) -> Around:
    return Around(connect_s=3, idle_s=10, keep_s=5, ca_path=ca_path, http_proxy="")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def store() -> Iterator[Callable[..., PlainStore]]:
    """A store with these ways, and a file ``f`` in it."""
    with ExitStack() as stack:
        yield lambda **ways: stack.enter_context(PlainStore(Ways(**ways), f=CONTENT))


@pytest.fixture
def bare(xrootd, ca) -> Iterator[BareServer]:
    with BareServer(ca) as server:
        yield server


@pytest.fixture
def move(around: Around, told: Told, tmp_path: Path):
    """Copy between URLs; a word without a scheme is a local file."""

    def move(source: str, target: str, how: str = "", **changes: object) -> Done:
        sides = [Side(one if "://" in one else f"file://{tmp_path}/{one}") for one in (source, target)]
        return copy(Order(*sides, None, None, False, False, how)._replace(**changes), told, around)

    (tmp_path / "out").write_bytes(CONTENT)
    return move


# A look


@pytest.mark.parametrize("status", [400, 405, 406, 500, 501])
def test_a_server_that_refuses_to_be_asked_for_a_checksum_is_asked_without(status, store, around):
    server = store(no_digest=status)

    assert http.stat(Side(server.url("f")), around, "adler32") == Stat(len(CONTENT), None)
    with pytest.raises(FileMissing):
        http.stat(Side(server.url("none")), around, "adler32")
    assert set(server.methods) == {"HEAD"}


@pytest.mark.parametrize("status", [400, 401, 403, 405, 500, 501])
def test_where_there_is_no_head_a_byte_of_the_file_is_asked_for(status, store, around):
    server = store(refused={"HEAD": status})
    server.files["/empty"] = b""

    assert http.stat(Side(server.url("f")), around, "adler32") == Stat(len(CONTENT), SUM)
    assert http.stat(Side(server.url("empty")), around, None).size == 0
    with pytest.raises(FileMissing):
        http.stat(Side(server.url("none")), around, None)


@pytest.mark.parametrize("ways", [{"ranges": False}, {"no_digest": 500}, {"ranges": False, "no_digest": 405}])
def test_a_byte_that_cannot_be_had_alone_is_the_head_of_the_whole_file(ways, store, around):
    server = store(refused={"HEAD": 403}, **ways)

    assert http.stat(Side(server.url("f")), around, "adler32").size == len(CONTENT)


@pytest.mark.parametrize("length", ["none", "zero"])
@pytest.mark.parametrize("refused", [{}, {"PROPFIND": 405}, {"PROPFIND": 207}])
def test_a_head_that_tells_no_length_is_not_the_last_word(length, refused, store, around):
    server = store(length=length, refused=refused)

    assert http.stat(Side(server.url("f")), around, "adler32", len(CONTENT)) == Stat(len(CONTENT), SUM)


def test_a_server_in_trouble_is_not_taken_for_one_that_refuses(store, around):
    with pytest.raises(Unreachable):
        http.stat(Side(store(refused={"HEAD": 503}).url("f")), around, "adler32")


def test_what_may_not_be_read_in_any_way_is_denied(store, around):
    with pytest.raises(Denied):
        http.stat(Side(store(refused={"HEAD": 403, "GET": 403}).url("f")), around, "adler32")


def test_an_xrootd_without_checksums_is_looked_at_and_copied_to(bare, move, around):
    bare.put("in", CONTENT)

    assert move("out", bare.http("up")).verified == "size"
    assert move(bare.https("in"), "down").verified == "size"
    assert move(bare.http("in"), bare.http("tpc"), "pull").verified == "size"
    assert (bare.data / "up").read_bytes() == (bare.data / "tpc").read_bytes() == CONTENT


# Copies whose looks are refused


@pytest.mark.parametrize("status", [405, 500, 501])
def test_an_upload_stays_where_nobody_tells_checksums(status, store, move):
    server = store(no_digest=status)

    assert move("out", server.url("up")).verified == "size"
    assert move(server.url("f"), server.url("tpc"), "pull").verified == "size"
    assert server.files["/up"] == server.files["/tpc"] == CONTENT
    assert "DELETE" not in server.methods


@pytest.mark.parametrize("status", [403, 405, 500, 501])
def test_a_download_without_a_catalogue_needs_no_head(status, store, move, tmp_path):
    server = store(refused={"HEAD": status, "PROPFIND": 403})

    assert move(server.url("f"), "down").verified == "checksum"
    assert (tmp_path / "down").read_bytes() == CONTENT


def test_a_url_that_is_signed_for_one_method_is_good_for_that_one(store, move, around, told, tmp_path):
    server = store(signed=True)

    assert find(Side(server.url("f?signed=GET")), around)[0].size == len(CONTENT)
    move(server.url("f?signed=GET"), "down")
    done = move("out", server.url("up?signed=PUT"))

    assert (tmp_path / "down").read_bytes() == server.files["/up"] == CONTENT
    assert (done.verified, done.size, done.adler32) == ("answer", len(CONTENT), SUM)
    assert ["not looked at" in note and "403" in note for note in told.notes] == [True]
    assert "signed" not in told.notes[0]


@pytest.mark.parametrize(
    ("tags", "verified"),
    [
        (lambda content: {"Digest": f"adler32={zlib.adler32(content):08x}"}, "checksum"),
        (lambda content: {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}, "checksum"),
        (lambda content: {"Digest": f"md5={hashlib.md5(content).hexdigest()}"}, "checksum"),
        (lambda content: {"ETag": f'"{hashlib.md5(content).hexdigest()}-3"'}, "answer"),
        (lambda content: {"ETag": f'"{hashlib.md5(b"encrypted" + content).hexdigest()}"'}, "answer"),
        (lambda _: {}, "answer"),
    ],
)
def test_what_the_answer_to_an_upload_tells_is_compared(tags, verified, store, move):
    server = store(refused={"HEAD": 403, "GET": 403}, tags=tags)

    assert move("out", server.url("up")).verified == verified
    assert server.files["/up"] == CONTENT


def test_an_answer_to_an_upload_that_tells_another_checksum_is_a_mismatch(store, move):
    server = store(refused={"HEAD": 403, "GET": 403}, tags=lambda _: {"Repr-Digest": "adler=:AAAAAQ==:"})

    with pytest.raises(Mismatch):
        move("out", server.url("up"))

    assert "/up" not in server.files


@pytest.mark.parametrize("refused", [{"HEAD": 405, "GET": 405}, {"HEAD": 403, "GET": 401}, {"HEAD": 501, "GET": 501}])
@pytest.mark.parametrize("how", ["", "pull"])
def test_a_good_copy_that_nobody_may_look_at_stays(how, refused, store, move, told):
    server = store(refused=refused)

    assert move(server.url("f") if how else "out", server.url("up"), how).verified == "answer"
    assert server.files["/up"] == CONTENT
    assert ["not looked at" in note for note in told.notes] == [True]


def test_a_server_that_tells_nothing_of_what_it_has_keeps_it(store, move, told):
    server = store(length="none", sums=False, ranges=False, refused={"PROPFIND": 405, "GET": 405})

    assert move("out", server.url("up")).verified == "answer"
    assert server.files["/up"] == CONTENT
    assert "neither size nor checksum" in told.notes[0]


@pytest.mark.parametrize("scope", ["storage.create:/", "storage.modify:/", "storage.create:/ storage.modify:/"])
@pytest.mark.parametrize("scheme", ["https", "davs"])
def test_a_token_that_may_only_write_leaves_a_file_that_counts(scheme, scope, guarded, issuer, around, told, tmp_path):
    path = f"only-write/{scheme}-{len(scope)}-{scope[8]}"
    (tmp_path / "out").write_bytes(CONTENT)
    target = Side(getattr(guarded, scheme)(path), issuer.token(scope))

    done = copy(Order(Side(f"file://{tmp_path}/out"), target, None, None, False, False, ""), told, around)

    assert done.verified == "answer"
    assert (guarded.data / path).read_bytes() == CONTENT
    assert "not looked at" in told.notes[0]


def test_a_server_that_expects_nothing_gets_the_body_unasked(store, move):
    server = store(no_expect=True)

    assert move("out", server.url("up")).verified == "checksum"
    assert [seen.headers["Expect"] for seen in server.seen if seen.method == "PUT"] == ["100-continue", None]


def test_a_file_that_is_there_is_found_without_head(store, move):
    server = store(refused={"HEAD": 405})
    server.files["/up"] = b"of somebody else"

    with pytest.raises(StageError, match="another file is there already"):
        move("out", server.url("up"))

    assert server.files["/up"] == b"of somebody else"
