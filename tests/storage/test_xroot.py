"""root:// in a lane of its own, against real servers: one that keeps checksums, and a bare one that keeps none."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from pilot.staging.worker.xroot.errors import check
from pilot.staging.worker.xroot.flight import Flight, ReadAhead
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    Mismatch,
    NoSpace,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)
from tests.storage.fault_proxy import FaultProxy
from tests.storage.small_disk import small_disk
from tests.storage.tokens import token_file
from tests.storage.xrootd_server import XrootdServer

ROOT = Path(__file__).parents[2]
CONTENT = random.Random(11).randbytes(5_000_001)
MIDDLE = 2_000_000  # a byte of the content, in each of the connections that carry it
HELD_S = 1


class BareServer(XrootdServer):
    """One that keeps no checksums, and half a file for a second only (in place of ten minutes)."""

    def _prepare(self, ca: trustme.CA, config: str) -> None:
        lines = [line for line in config.splitlines() if not line.startswith("xrootd.chksum")]
        super()._prepare(ca, "\n".join([*lines, f"ofs.persist manual hold {HELD_S}s", ""]))


@pytest.fixture(scope="module")
def bare(xrootd: XrootdServer, ca: trustme.CA) -> Iterator[XrootdServer]:
    with BareServer(ca) as server:
        yield server


@pytest.fixture(params=["keeping", "bare"])
def server(request: pytest.FixtureRequest, xrootd: XrootdServer, bare: XrootdServer) -> XrootdServer:
    return xrootd if request.param == "keeping" else bare


@pytest.fixture
def here(tmp_path: Path) -> str:
    """Where a download goes, as a URL."""
    return f"file://{tmp_path}/in.dat"


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """What an upload sends, as a URL."""
    (tmp_path / "out.dat").write_bytes(CONTENT)
    return f"file://{tmp_path}/out.dat"


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A directory of the test's own at a server."""
    return "xroot/" + "".join(c if c.isalnum() else "-" for c in request.node.name)


def variables(idle_s: int = 20) -> dict[str, str]:
    limits = ("XRD_REQUESTTIMEOUT", "XRD_STREAMTIMEOUT", "XRD_STREAMERRORWINDOW", "PILOT_LANE_IDLE_S")
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PILOT_LANE_KEEP_S": "30",
        "XRD_CONNECTIONRETRY": "1",
        "XRD_CONNECTIONWINDOW": "2",
        "XRD_TIMEOUTRESOLUTION": "1",
        **dict.fromkeys(limits, str(idle_s)),
    }


def lane(*orders: dict[str, Any], idle_s: int = 20, **more: str) -> list[SimpleNamespace]:
    """What one lane process answers to each order: ``kind`` of error ("" for none), ``text``, ``done``, ``told``."""
    lines = "".join(json.dumps({"id": number, **order}) + "\n" for number, order in enumerate(orders))
    ended = subprocess.run(
        [sys.executable, "-m", "pilot.staging.worker"],
        input=lines,
        env=variables(idle_s) | more,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return [_answer(number, [json.loads(line) for line in ended.stdout.splitlines()]) for number in range(len(orders))]


def _answer(number: int, told: list[dict[str, Any]]) -> SimpleNamespace:
    mine = [line for line in told if line.get("id") == number]
    error = mine[-1].get("error", {})
    return SimpleNamespace(
        kind=error.get("kind", ""), text=error.get("message", ""), done=mine[-1].get("done"), told=mine[:-1]
    )


def copy(source: str, destination: str, **more: Any) -> dict[str, Any]:
    return {"op": "copy", "source": source, "destination": destination, **more}


def adler32(content: bytes) -> str:
    return f"{zlib.adler32(content):08x}"


def known(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "checksum": f"adler32:{adler32(content)}"}


def stored(server: XrootdServer, path: str) -> bytes | None:
    """A file at the server, None if there is none."""
    file = server.data / path
    return file.read_bytes() if file.exists() else None


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something that another process does, and that nothing tells of."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, f"in 30 s not seen: {what}"
        time.sleep(0.02)


# -- a bit flips on the wire ---------------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_by_the_checksum_of_the_catalogue(server, here, folder, tmp_path):
    server.put(f"{folder}/f", CONTENT)

    with FaultProxy(server.root_port, "flip", MIDDLE) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/f"), here, **known(CONTENT)))

    assert (answer.kind, list(tmp_path.iterdir())) == ("mismatch", [])


def test_a_flipped_bit_is_found_by_the_checksum_of_the_server(xrootd, here, folder, tmp_path):
    xrootd.put(f"{folder}/f", CONTENT)

    with FaultProxy(xrootd.root_port, "flip", MIDDLE) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/f"), here))

    assert (answer.kind, list(tmp_path.iterdir())) == ("mismatch", [])


def test_a_flipped_bit_is_repaired_where_nobody_keeps_a_checksum(bare, here, folder, tmp_path):
    bare.put(f"{folder}/f", CONTENT)

    with FaultProxy(bare.root_port, "flip", MIDDLE) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/f"), here))

    assert answer.done["size"] == len(CONTENT)
    assert (tmp_path / "in.dat").read_bytes() == CONTENT
    assert proxy.moved > len(CONTENT) + len(CONTENT) // 4096 * 4  # each page had its own checksum


def test_a_flipped_bit_of_an_upload_is_found_by_the_checksum_of_the_server(xrootd, mine, folder):
    with FaultProxy(xrootd.root_port, "flip", MIDDLE, upward=True) as proxy:
        (answer,) = lane(copy(mine, proxy.root(f"{folder}/f"), **known(CONTENT)))

    assert (answer.kind, stored(xrootd, f"{folder}/f")) == ("mismatch", None)


def test_a_flipped_bit_of_an_upload_is_repaired_where_the_server_keeps_no_checksum(bare, mine, folder):
    with FaultProxy(bare.root_port, "flip", MIDDLE, upward=True) as proxy:
        (answer,) = lane(copy(mine, proxy.root(f"{folder}/f"), **known(CONTENT)))

    assert answer.done["size"] == len(CONTENT)
    assert stored(bare, f"{folder}/f") == CONTENT
    assert proxy.moved > len(CONTENT) + len(CONTENT) // 4096 * 4


def test_a_flipped_bit_between_two_servers_is_found_though_the_second_stores_what_it_got(xrootd, bare, folder):
    xrootd.put(f"{folder}/f", CONTENT)

    with FaultProxy(xrootd.root_port, "flip", MIDDLE) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/f"), bare.root(f"{folder}/f")))

    assert (answer.kind, stored(bare, f"{folder}/f")) == ("mismatch", None)


def test_people_are_told_once_for_a_server_that_keeps_no_checksums(xrootd, bare, here, folder):
    for place in (xrootd, bare):
        place.put(f"{folder}/f", CONTENT)
    order = copy(bare.root(f"{folder}/f"), here, overwrite=True)

    first, second = lane(order, order)
    (kept,) = lane(copy(xrootd.root(f"{folder}/f"), here, overwrite=True))

    assert ["note" in line for line in first.told].count(True) == 1
    assert not any("note" in line for line in second.told + kept.told)


# -- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [CONTENT, CONTENT[:10], b""], ids=["some", "few", "none"])
def test_a_file_goes_there_and_back_whole(content, server, folder, tmp_path):
    (tmp_path / "out.dat").write_bytes(content)
    url = server.root(f"{folder}/new/f")

    up, down, again = lane(
        copy(f"file://{tmp_path}/out.dat", url),
        copy(url, f"file://{tmp_path}/in.dat"),
        copy(url, f"file://{tmp_path}/in2.dat", **known(content)),
    )

    assert stored(server, f"{folder}/new/f") == content
    assert (tmp_path / "in.dat").read_bytes() == (tmp_path / "in2.dat").read_bytes() == content
    assert [answer.done["adler32"] for answer in (up, down, again)] == [adler32(content)] * 3


def test_another_file_that_is_there_stays_unless_told(server, mine, folder):
    path = server.put(f"{folder}/f", b"of somebody else")

    kept, replaced = lane(
        copy(mine, server.root(f"{folder}/f")), copy(mine, server.root(f"{folder}/f"), overwrite=True)
    )

    assert (kept.kind, replaced.done["size"]) == ("exists", len(CONTENT))
    assert not any("writing" in line for line in kept.told)
    assert path.read_bytes() == CONTENT


def test_the_same_file_that_is_there_will_do(xrootd, mine, folder):
    xrootd.put(f"{folder}/f", CONTENT)

    (answer,) = lane(copy(mine, xrootd.root(f"{folder}/f")))

    assert answer.done["there"] is True


def test_a_directory_that_cannot_be_made_is_told_as_denied(server, mine, folder):
    server.put(f"{folder}/file", b"")
    server.put(f"{folder}/closed/file", b"").parent.chmod(0o555)

    answers = lane(copy(mine, server.root(f"{folder}/file/f")), copy(mine, server.root(f"{folder}/closed/sub/f")))

    assert [answer.kind for answer in answers] == ["denied", "denied"]


def test_a_full_disk_keeps_no_part(server, mine, folder):
    with server.small_disk(folder) as disk:
        (answer,) = lane(copy(mine, server.root(f"{folder}/f")))
        left = list(disk.iterdir())

    assert (answer.kind, left) == ("no-space", [])


def test_a_file_that_is_not_what_was_promised_is_removed(server, mine, folder):
    (answer,) = lane(copy(mine, server.root(f"{folder}/f"), size=len(CONTENT), checksum="adler32:00000001"))

    assert (answer.kind, stored(server, f"{folder}/f")) == ("mismatch", None)


def test_a_source_that_breaks_off_leaves_no_half_target(server, xrootd, folder):
    xrootd.put(f"{folder}/source", CONTENT)

    with FaultProxy(xrootd.root_port, "stall", MIDDLE) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/source"), server.root(f"{folder}/f"), **known(CONTENT)), idle_s=2)

    assert (answer.kind, stored(server, f"{folder}/f")) == ("stalled", None)
    assert any("writing" in line for line in answer.told)


_REFUSED_IN_THE_MIDDLE = """
import os, sys
from pilot.staging import order
from pilot.staging.worker.xroot import xroot
from pilot.values.errors import Denied

class Content:
    size = 9_000_000

    def __iter__(self):
        yield bytes(3_000_000)
        raise Denied("the source wants another token from here on")

try:
    with xroot.writing(order.Side(sys.argv[1]), Content(), order.Around.read({}), overwrite=False):
        print("whole")
except Denied as error:
    print(error, flush=True)
os._exit(0)
"""


def test_a_source_that_refuses_in_the_middle_leaves_no_half_target(server, folder):
    """Only a target that refuses has nothing to be removed."""
    start = [sys.executable, "-c", _REFUSED_IN_THE_MIDDLE, server.root(f"{folder}/f")]
    ended = subprocess.run(start, env=variables(), capture_output=True, text=True, timeout=60, check=True)

    assert ended.stdout == "the source wants another token from here on\n"
    assert stored(server, f"{folder}/f") is None


@pytest.fixture
def killed(folder: str, mine: str) -> Callable[[XrootdServer], str]:
    """Kill a lane in the middle of an upload, and give the path of what it has left."""

    def kill(server: XrootdServer) -> str:
        path = f"{folder}/half"
        with FaultProxy(server.root_port, "slow", 2_000_000, upward=True) as proxy:
            start = [sys.executable, "-m", "pilot.staging.worker"]
            with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=variables()) as process:
                assert process.stdin is not None
                process.stdin.write(json.dumps({"id": 0, **copy(mine, proxy.root(path))}).encode() + b"\n")
                process.stdin.flush()
                until(lambda: stored(server, path), "the first bytes")
                process.send_signal(signal.SIGKILL)
                process.wait()
        half = stored(server, path)
        assert half is not None
        assert len(half) < len(CONTENT)
        return path

    return kill


def test_a_killed_lane_leaves_half_a_file_that_the_server_removes(killed, bare, mine):
    path = killed(bare)

    until(lambda: stored(bare, path) is None, "the removal of half a file")

    (answer,) = lane(copy(mine, bare.root(path)))
    assert answer.done["size"] == len(CONTENT)


def test_half_a_file_of_a_killed_lane_is_no_file_yet_and_may_be_replaced(killed, xrootd, mine, here):
    path = killed(xrootd)

    again, replaced, there = lane(
        copy(mine, xrootd.root(path)), copy(mine, xrootd.root(path), overwrite=True), copy(xrootd.root(path), here)
    )

    assert (again.kind, "is writing it" in again.text) == ("unreachable", True)
    assert replaced.done["verified"] == there.done["verified"] == "checksum"


# -- what is refused, and what breaks ------------------------------------------------------------------------------


def test_what_cannot_be_read_is_told_in_the_right_word(server, here, folder):
    server.put(f"{folder}/file", b"content").chmod(0)

    answers = lane(*(copy(server.root(f"{folder}/{name}"), here) for name in ("nowhere", "file", "file/below", "")))

    assert [answer.kind for answer in answers] == ["missing", "denied", "missing", "failed"]


def test_a_connection_that_is_cut_in_the_middle_is_continued(xrootd, here, folder, tmp_path):
    xrootd.put(f"{folder}/f", CONTENT)

    with FaultProxy(xrootd.root_port, "cut", MIDDLE, faulty=1) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/f"), here))

    assert answer.done["size"] == len(CONTENT)
    assert (tmp_path / "in.dat").read_bytes() == CONTENT
    assert proxy.connections > 1


def test_a_connection_that_is_cut_in_a_copy_by_pages_leaves_the_whole_file_or_none(bare, here, folder, tmp_path):
    """Which of the two is the library's choice, and differs from time to time."""
    bare.put(f"{folder}/f", CONTENT)

    with FaultProxy(bare.root_port, "cut", MIDDLE, faulty=1) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/f"), here))

    assert answer.kind in {"", "stalled", "unreachable"}
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if answer.kind else [CONTENT])


def test_a_server_that_falls_silent_is_given_up(xrootd, here, folder, tmp_path):
    """Not so where the library copies by pages: it begins again for ever, and the parent has to end the lane."""
    xrootd.put(f"{folder}/f", CONTENT)

    with FaultProxy(xrootd.root_port, "stall", MIDDLE) as proxy:
        (answer,) = lane(copy(proxy.root(f"{folder}/f"), here), idle_s=2)

    assert (answer.kind, list(tmp_path.iterdir())) == ("stalled", [])


def test_every_question_to_a_server_that_never_answers_comes_to_an_end(xrootd, here, mine):
    with FaultProxy(xrootd.root_port, "blackhole") as proxy:
        url = proxy.root("f")
        answers = lane(
            {"op": "delete", "destination": url},
            {"op": "find", "source": url},
            copy(url, here),
            copy(mine, url),
            copy(url, proxy.root("g"), third_party="pull"),
            idle_s=2,
        )

    assert {answer.kind for answer in answers} <= {"stalled", "unreachable"}
    assert all(answer.kind for answer in answers)


def test_a_local_disk_that_is_full_ends_a_copy_by_pages_but_not_the_lane(bare, folder, tmp_path):
    """The library sits in the middle of its copy then, and has to be got out of it."""
    bare.put(f"{folder}/f", CONTENT)
    (tmp_path / "disk").mkdir()

    with small_disk(tmp_path / "disk", 2):
        bad, good = lane(
            copy(bare.root(f"{folder}/f"), f"file://{tmp_path}/disk/in.dat"),
            copy(bare.root(f"{folder}/f"), f"file://{tmp_path}/in.dat"),
        )
        left = list((tmp_path / "disk").iterdir())

    assert (bad.kind, left) == ("no-space", [])
    assert good.done["size"] == len(CONTENT)


def test_no_user_and_no_parameter_of_a_url_is_told(server, here, mine, folder):
    secret = server.root(f"{folder}/f").replace("//127", "//joe@127") + "?authz=Bearer%20abc"

    answers = lane(copy(secret, here), copy(mine, secret), copy(mine, secret), {"op": "find", "source": secret})
    told = json.dumps([[answer.text, answer.told] for answer in answers])

    assert [answer.kind for answer in answers].count("") >= 1
    assert not any(word in told for word in ("joe", "authz", "abc"))


# -- removal and lists ---------------------------------------------------------------------------------------------


def test_a_file_is_deleted_and_one_that_is_not_there_is_fine(xrootd, folder):
    xrootd.put(f"{folder}/f", b"content")
    order = {"op": "delete", "destination": xrootd.root(f"{folder}/f")}

    first, second = lane(order, order)

    assert (first.kind, second.kind, stored(xrootd, f"{folder}/f")) == ("", "", None)


def test_a_directory_is_listed_with_all_below_it(xrootd, folder):
    for name, size in {"b": 2, "a/z": 3, "a/b/c": 0, "sp ace": 1}.items():
        xrootd.put(f"{folder}/{name}", b"x" * size)

    (answer, slash) = lane(*({"op": "find", "source": xrootd.root(folder) + end} for end in ("", "/")))

    assert answer.done == slash.done
    assert [(entry["path"], entry["size"]) for entry in answer.done] == [
        ("a/b/c", 0),
        ("a/z", 3),
        ("b", 2),
        ("sp ace", 1),
    ]


def test_what_is_no_directory_is_a_file_or_missing(xrootd, folder):
    xrootd.put(f"{folder}/f", b"four")

    answers = lane(*({"op": "find", "source": xrootd.root(f"{folder}/{name}")} for name in ("f", "nowhere")))

    assert answers[0].done == [{"path": "", "size": 4}]
    assert answers[1].kind == "missing"


# -- from one server to the other ----------------------------------------------------------------------------------


def test_a_server_fetches_a_file_from_another(xrootd, bare, folder):
    xrootd.put(f"{folder}/f", CONTENT)

    (answer,) = lane(copy(xrootd.root(f"{folder}/f"), bare.root(f"{folder}/new/f"), third_party="pull"))

    assert answer.kind == "", answer.text
    assert stored(bare, f"{folder}/new/f") == CONTENT
    assert answer.done["adler32"] == adler32(CONTENT)


def test_a_third_party_copy_replaces_only_what_it_may(xrootd, bare, folder):
    xrootd.put(f"{folder}/f", CONTENT)
    bare.put(f"{folder}/f", b"of somebody else")
    order = copy(xrootd.root(f"{folder}/f"), bare.root(f"{folder}/f"), third_party="pull")

    (kept,) = lane(order)
    left = stored(bare, f"{folder}/f")
    (replaced,) = lane(order | {"overwrite": True})

    assert (kept.kind, left) == ("exists", b"of somebody else")
    assert (replaced.kind, stored(bare, f"{folder}/f")) == ("", CONTENT)


def test_a_third_party_copy_that_fails_leaves_nothing(xrootd, bare, folder):
    xrootd.put(f"{folder}/f", CONTENT)

    with bare.small_disk(folder) as disk:
        (answer,) = lane(copy(xrootd.root(f"{folder}/f"), bare.root(f"{folder}/f"), third_party="pull"))
        left = list(disk.iterdir())

    assert (bool(answer.kind), left) == (True, [])


# -- without a server ----------------------------------------------------------------------------------------------


def status(code: int, errno: int = 0, message: str = "no") -> SimpleNamespace:
    return SimpleNamespace(ok=False, code=code, errno=errno, message=message)


@pytest.mark.parametrize(
    ("code", "errno", "error"),
    [
        (400, 3009, NoSpace),
        (400, 3010, Denied),
        (400, 3011, FileMissing),
        (400, 3018, Exists),
        (400, 3021, NoSpace),
        (402, 28, NoSpace),
        (402, 3018, Exists),
        (400, 3007, TransferFailed),
        (108, 0, Unreachable),
        (103, 0, Stalled),
        (206, 0, Stalled),
        (203, 0, Denied),
        (204, 0, Denied),
        (305, 0, Mismatch),
        (13, 0, TransferFailed),
    ],
)
def test_each_number_has_its_meaning(code, errno, error):
    with pytest.raises(StageError) as caught:
        check(status(code, errno), "root://host//f")

    assert type(caught.value) is error
    assert f"({errno or code})" in str(caught.value)


def test_a_rendezvous_under_two_names_is_explained_and_is_no_question_of_rights():
    with pytest.raises(
        TransferFailed, match=r"authorization expired \(destination\); the two .* IP addresses \(3010\)"
    ):
        check(status(400, 3010, "[3010] tpc authorization expired (destination)"), "root://localhost//f")


class FakeFile:
    """Answers at once; ``short`` bytes less than asked for."""

    def __init__(self, content: bytes, short: int = 0) -> None:
        self._content = content
        self._short = short
        self.asked: list[int] = []

    def read(self, offset: int, size: int, timeout: int, callback: Any = None) -> Any:
        assert timeout
        self.asked.append(size)
        found = (SimpleNamespace(ok=True), self._content[offset : offset + size - self._short])
        if callback is None:
            return found
        callback(*found, None)
        return found[0]


@pytest.mark.parametrize("size", [0, 10, 1 << 20, (1 << 20) + 1, 30 << 20])
def test_a_file_can_be_read_twice(size):
    content, url = bytes(size), "root://host//f"
    with Flight(url) as flight:
        chunks = ReadAhead(FakeFile(content), size, url, 9, flight)

        next(iter(chunks), None)  # given up in the middle
        assert b"".join(chunks) == b"".join(chunks) == content


def test_pieces_begin_small_and_grow_while_they_come_quickly():
    remote = FakeFile(bytes(60 << 20))
    with Flight("u") as flight:
        assert max(map(len, ReadAhead(remote, 60 << 20, "u", 9, flight))) == 8 << 20

    assert remote.asked[:4] == [1 << 20] * 4


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_a_file_that_ends_early_is_a_mismatch(size):
    with Flight("u") as flight, pytest.raises(Mismatch, match="ended before"):
        list(ReadAhead(FakeFile(bytes(size), short=1), size, "u", 9, flight))


# -- who may write, and not look -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["storage.create:/", "storage.modify:/", "storage.create:/ storage.read:/"])
def test_a_token_that_may_only_write_leaves_a_file_that_counts(scope, guarded, issuer, mine, ca_path, folder, tmp_path):
    login = {"BEARER_TOKEN_FILE": str(token_file(tmp_path, issuer.token(scope))), "X509_CERT_FILE": ca_path}

    new, over = lane(
        copy(mine, guarded.roots(f"{folder}/f")), copy(mine, guarded.roots(f"{folder}/f"), overwrite=True), **login
    )

    assert (new.kind, new.done["verified"]) == ("", "checksum" if "read" in scope else "answer")
    assert any("not looked at" in line.get("note", "") for line in new.told) is ("read" not in scope)
    assert over.kind == ("denied" if "create" in scope else "")
    assert stored(guarded, f"{folder}/f") == CONTENT
    assert [path.name for path in (guarded.data / folder).iterdir()] == ["f"]


def test_a_token_that_may_not_replace_leaves_no_trace_of_a_third_party_copy(
    guarded, guarded_fetcher, issuer, ca_path, folder, tmp_path
):
    guarded.put(f"{folder}/new", CONTENT)
    guarded_fetcher.put(f"{folder}/old", b"the old one")
    token = token_file(tmp_path, issuer.token("storage.create:/ storage.read:/"))

    (answer,) = lane(
        copy(
            guarded.roots(f"{folder}/new"), guarded_fetcher.roots(f"{folder}/old"), overwrite=True, third_party="pull"
        ),
        BEARER_TOKEN_FILE=str(token),
        X509_CERT_FILE=ca_path,
    )

    assert answer.kind == "denied"
    assert stored(guarded_fetcher, f"{folder}/old") == b"the old one"
    assert [path.name for path in (guarded_fetcher.data / folder).iterdir()] == ["old"]
