"""Informational answers (1xx but 101) before the real one are passed over, and have an end."""

from __future__ import annotations

import contextlib
import itertools
import resource
import time
from collections.abc import Iterable, Iterator

import pytest
import trustme

from pilot.staging.order import Around, Order, Side
from pilot.staging.worker.copy import copy
from pilot.staging.worker.web import http
from pilot.values.errors import Denied, StageError, Stalled, TransferFailed, Unreachable
from tests.storage.test_optional import Told
from tests.storage.web import Answers, WebServer

CONTENT = bytes(range(256)) * 1000
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nX-Note: \xc3\xbc\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UNKNOWN = b"HTTP/1.1 199 Whatever\r\nContent-Length: 5\r\n\r\n"


class Herald(WebServer):
    """Says ``before`` each answer, and ``leave`` to whoever asks whether to send; a path ``/STATUS`` is answered so."""

    def __init__(self, ca: trustme.CA | None = None) -> None:
        super().__init__(_Handler, ca)
        self.before: Iterable[bytes] = ()
        self.leave: Iterable[bytes] = (CONTINUE,)
        self.refusal = 0
        self.pause_s = 0.0
        self.files: dict[str, bytes] = {"/f": CONTENT}


class _Handler(Answers):
    server: Herald

    def handle_expect_100(self) -> bool:
        if self.server.refusal:
            self.wfile.write(HINTS + PROCESSING + b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.server.refusal)
            return False
        self.say(self.server.leave)
        return True

    def say(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            if self.server.over.is_set() or (self.server.pause_s and not self.sleep(self.server.pause_s)):
                return

    def answer(self) -> None:
        self.remember()
        content = self.body()
        if self.command != "DELETE":
            self.say(self.server.before)
        found = self.server.files.get(self.path)
        if self.path[1:].isdigit():
            self.head(int(self.path[1:]))
        elif self.command == "PUT":
            self.server.files[self.path] = content
            self.head(201)
        elif self.command == "COPY":
            self.server.files[self.path] = CONTENT
            self.head(201, 16)
            self.wfile.write(b"success: Created")
        elif self.command in ("GET", "HEAD") and found is not None:
            self.head(200, len(found))
            self.wfile.write(found if self.command == "GET" else b"")
        else:
            self.head(404)


@pytest.fixture
def around(ca_path: str) -> Around:
    return Around(connect_s=3, idle_s=10, keep_s=5, ca_path=ca_path, http_proxy="")


@pytest.fixture(params=["http", "https"])
def herald(request: pytest.FixtureRequest, ca: trustme.CA) -> Iterator[Herald]:
    with Herald(ca if request.param == "https" else None) as server:
        yield server


@pytest.fixture
def move(around, tmp_path):
    def move(source: str, target: str, how: str = "", around: Around = around) -> None:
        sides = [Side(one if ":" in one else f"file://{tmp_path}/{one}") for one in (source, target)]
        copy(Order(*sides, None, None, False, False, how), Told(), around)

    (tmp_path / "out").write_bytes(CONTENT)
    return move


@pytest.mark.parametrize(
    "before", [[PROCESSING], [HINTS], [HINTS, PROCESSING, CONTINUE, UNKNOWN], [HINTS[:9], HINTS[9:30], HINTS[30:]]]
)
def test_what_a_server_says_before_its_answer_is_passed_over(before, herald, move, tmp_path):
    herald.before = before

    move(herald.url("f"), "down")
    move("out", herald.url("up"))
    move(herald.url("f"), herald.url("tpc"), "pull")

    assert (tmp_path / "down").read_bytes() == herald.files["/up"] == herald.files["/tpc"] == CONTENT


@pytest.mark.parametrize(
    "leave",
    [
        [PROCESSING, CONTINUE],
        [HINTS, HINTS, PROCESSING, CONTINUE],
        [PROCESSING + CONTINUE],
        [HINTS + PROCESSING],  # and no leave: as if it knew nothing of such questions
        [CONTINUE, CONTINUE],
        [],
    ],
)
def test_leave_to_send_comes_behind_other_informational_answers(leave, herald, move):
    herald.leave = leave

    move("out", herald.url("up"))

    assert herald.files["/up"] == CONTENT


@pytest.mark.parametrize(("status", "error"), [(403, Denied), (503, Unreachable)])
def test_a_refusal_behind_informational_answers_is_one(status, error, herald, move):
    herald.refusal = status

    with pytest.raises(error, match=str(status)):
        move("out", herald.url("up"))

    assert "/up" not in herald.files
    assert "DELETE" not in [seen.method for seen in herald.seen]  # not a byte was sent that would have to go


@pytest.mark.parametrize(("count", "error"), [(100, None), (101, Unreachable)])
def test_so_many_are_passed_over_and_no_more(count, error, herald, around):
    herald.before = [PROCESSING] * count

    with pytest.raises(error, match="more than 100") if error else contextlib.nullcontext():
        http.stat(Side(herald.url("f")), around, None)


def test_another_protocol_is_an_answer(herald, around):
    with pytest.raises(TransferFailed, match="HTTP 101"):
        http.stat(Side(herald.url("101")), around, None)


@pytest.mark.parametrize("path", ["before", "leave"])
@pytest.mark.parametrize("piece", [PROCESSING, CONTINUE, HINTS, b"HTTP/1.1 102 P\r\nX: " + b"x" * 60_000 + b"\r\n\r\n"])
def test_a_stream_of_informational_answers_has_an_end_and_takes_no_memory(piece, path, herald, move):
    setattr(herald, path, itertools.repeat(piece))
    used_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(Unreachable, match="informational answers"):
        move("out", herald.url("up"))

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used_kib < 64 << 10


@pytest.mark.parametrize("headers", [itertools.repeat(b"X: y\r\n"), itertools.repeat(b"x" * 1000)])
def test_an_informational_answer_that_never_ends_has_an_end(headers, herald, around):
    herald.before = itertools.chain([b"HTTP/1.1 103 Early Hints\r\nX: "], headers)

    with pytest.raises(Unreachable, match="informational answers"):
        http.stat(Side(herald.url("f")), around, None)


def test_informational_answers_are_no_sign_of_life(herald, around):
    herald.before, herald.pause_s = itertools.repeat(PROCESSING), 0.2
    began = time.monotonic()

    with pytest.raises(Stalled):
        http.stat(Side(herald.url("f")), around._replace(idle_s=1.0), None)

    assert time.monotonic() - began < 4


def test_a_connection_is_kept_behind_informational_answers(herald, around):
    herald.before = [HINTS]
    side = Side(herald.url("f"))

    for _ in range(3):
        assert http.stat(side, around, None).size == len(CONTENT)
    with contextlib.suppress(StageError), http.reading(side, around, Told(), compared=True) as source:
        assert b"".join(source.chunks) == CONTENT
