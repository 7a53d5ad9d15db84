"""The borders towards servers: what the PanDA server, iDDS and storages answer, over real connections.

A case is the answers of one exchange, as bytes. Most are in good form and have a spoilt body; some are spoilt in their
first line or headers, cut off, or label what they are not.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from pilot.net.transport import Limits, Transport
from pilot.panda.checkpoints import CheckpointClient
from pilot.panda.client import PandaClient, Question, first_words
from pilot.panda.events import EventClient, RangeUpdate
from pilot.panda.grants import GrantClient
from pilot.panda.idds import DirectIdds, RelayedIdds
from pilot.panda.wire import Wire
from pilot.staging.order import Around, Order, Side
from pilot.staging.worker.web import http, look, third_party, webdav
from pilot.values.errors import BadJob, CredentialError, ServerError, StageError
from tests.hostile.borders import Border, Refusals
from tests.hostile.fuzz import Mutator
from tests.hostile.raw_server import RawServer, answer
from tests.hostile.web_examples import (
    BOMB,
    COMMANDS,
    CONTENT,
    ENDS,
    FILE_LISTING,
    GRANTS,
    HEADERS,
    JOBS,
    LISTING,
    MARKERS,
    ODD_HEADERS,
    POINTS,
    RANGE,
    RANGES,
    RELAYED,
    STATUS,
    STATUS_LINES,
    STATUSES,
    STATUSES_OF_STORAGES,
    TOLD,
    UPDATED,
    good,
)

SERVER: Refusals = (ServerError, CredentialError)
STORAGE: Refusals = (StageError,)
QUESTION = Question("Q", "managed", "node", "Q")
UPDATE = {"job_id": 1, "job_status": "running", "attempt_nr": 1}
AROUND = Around(connect_s=5, idle_s=5, keep_s=1, ca_path="", http_proxy="")

# --- makers -----------------------------------------------------------------------------------------------


def said(*examples: Any, status: int = 200) -> Callable[[Mutator], list[bytes]]:
    """An envelope of a server, spoilt; sometimes under another status or with headers that lie."""

    def make(case: Mutator) -> list[bytes]:
        return [_said(case, case.json(case.pick(examples)), status) for _ in range(2)]

    return make


def _said(case: Mutator, body: bytes, status: int) -> bytes:
    match case.random.randrange(12):
        case 0:
            return answer(case.pick([400, 401, 403, 404, 408, 429, 500, 502, 503]), body, *odd_headers(case, 1))
        case 1:
            return answer(status, body, *odd_headers(case, 2))
        case 2:
            return case.bytes(answer(status, body))
        case 3:
            return answer(
                status, gzip.compress(body), ("Content-Encoding", case.pick(["gzip", "deflate", "gzip, gzip"]))
            )
        case 4 if case.random.randrange(20) == 0:
            return answer(status, BOMB, ("Content-Encoding", case.pick(["gzip", "gzip, gzip"])))
        case 5:
            return case.pick(STATUS_LINES).encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        case _:
            return answer(status, body)


def odd_headers(case: Mutator, count: int) -> list[tuple[str, str]]:
    """Headers that lie, or cannot be read."""
    names = [case.pick(list(HEADERS)) for _ in range(count)]
    told = [(name, case.pick([*ODD_HEADERS, case.text(HEADERS[name])]).replace("\n", "")) for name in names]
    return [(name, value) for name, value in told if name != "Location" or not _leads_away(value)]


def _leads_away(location: str) -> bool:
    """Whether somebody would have to be asked for the address of another host."""
    try:
        host = urlsplit(urljoin("http://127.0.0.1/d/", location)).hostname
    except ValueError:
        return False
    return host != "127.0.0.1"


def stored(body: bytes, *usual: int) -> Callable[[Mutator], list[bytes]]:
    """The answers of a storage to some requests: status, headers and body, each spoilt now and then."""

    def make(case: Mutator) -> list[bytes]:
        return [_stored(case, body, usual) for _ in range(case.random.randint(1, 4))]

    return make


def _stored(case: Mutator, body: bytes, usual: tuple[int, ...]) -> bytes:
    status = case.pick(usual) if case.random.randrange(3) else case.pick(STATUSES_OF_STORAGES)
    spoil = case.xml if body.startswith(b"<?xml") else case.bytes
    content = spoil(body) if case.random.randrange(2) else body
    known = [(name, HEADERS[name]) for name in HEADERS if name not in _FRAMING and case.random.randrange(4) == 0]
    headers = [*known, *odd_headers(case, case.random.randint(0, 2))]
    match case.random.randrange(8):
        case 0:
            return case.bytes(answer(status, content, *known))
        case 1:
            line = case.pick(STATUS_LINES).encode()
            return line + b"\r\n" + answer(status, content, *headers).partition(b"\r\n")[2]
        case 2:
            told = case.pick([0, 1, len(content) + 5, "x", "-1", "", "9" * 20, "9" * 5000])
            return answer(status, content, *headers, length=told)
        case 3:
            pieces = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (content[:5], content[5:]) if one)
            chunked = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
            return case.bytes(chunked) if case.random.randrange(2) else chunked
        case _:
            return answer(status, content, *headers)


_FRAMING = ("Content-Length", "Transfer-Encoding", "Location", "Retry-After", "Content-Encoding")


def copied(case: Mutator) -> list[bytes]:
    """The course of a third-party copy, and how it ends."""
    lines = (MARKERS + case.pick(ENDS)).splitlines(keepends=True)
    if case.random.randrange(3) == 0:
        lines[case.random.randrange(len(lines))] = case.pick(
            [b"\0\n", b"x" * 70_000, b"Stripe Index: %d\n" % 10**17, b"\xff\n", b"\r"]
        )
    return [_stored(case, b"".join(lines), (201, 202, 200)) for _ in range(2)]


# --- readers ----------------------------------------------------------------------------------------------


class Quiet:
    """A report that nobody reads."""

    def moved(self, total_bytes: int) -> None: ...

    def writing(self, url: str) -> None: ...

    def verifying(self, size: int) -> None: ...

    def note(self, text: str, **keys: object) -> None:
        json.dumps({"note": text, "keys": keys})


@contextlib.contextmanager
def web_borders(folder: Path) -> Iterator[tuple[list[Border], RawServer]]:
    """All of them, and the server that gives their answers."""
    server = RawServer()
    transport = Transport(server.url)
    try:
        yield [*_panda(server, transport, folder), *_storage(server)], server
    finally:
        transport.close()
        server.close()


def _panda(server: RawServer, transport: Transport, folder: Path) -> list[Border]:
    def asks(call: Callable[[Wire], Any]) -> Callable[[list[bytes]], Any]:
        def ask(answers: list[bytes]) -> Any:
            server.say(*answers)
            return call(Wire(transport, server.url, "test"))

        return ask

    def checkpoint(wire: Wire) -> Any:
        target = folder / "checkpoint"
        try:
            return CheckpointClient(wire).get(server.url, 31, "4", target, 1 << 20) and target.stat().st_size
        finally:
            target.unlink(missing_ok=True)

    def updated(wire: Wire) -> Any:
        told = PandaClient(wire).update_job(UPDATE)
        return [list(first_words(told.command))]

    def events(wire: Wire) -> Any:
        client = EventClient(wire)
        found = client.acquire(4711, 7, 31, 5)
        return [(one.id, one.process_id, one.first) for one in found]

    def points(make: Callable[[Wire], Any]) -> Callable[[Wire], Any]:
        def ask(wire: Wire) -> Any:
            idds = make(wire)
            return [(point.id, point.loss) for point in [*idds.points(31), idds.point(31, "1")] if point is not None]

        return ask

    def granted(wire: Wire) -> Any:
        """All of them are asked for; the last word is that of the last."""
        grants, found = GrantClient(wire), None
        calls = (
            lambda: grants.access_token("c", "k"),
            grants.proxy,
            lambda: grants.key_pair("a", "b"),
            grants.user_secrets,
        )
        for number, call in enumerate(calls):
            with contextlib.suppress(*(SERVER if found or number < len(calls) - 1 else ())):
                found = call()
        return found

    direct = lambda _wire: DirectIdds(transport, server.url, None, "test")  # noqa: E731 - as the other one is a class
    told = RangeUpdate(RANGE, "finished")
    calls: list[tuple[str, int, list[Any], Callable[[Wire], Any], Refusals]] = [
        ("acquire_jobs", 500, JOBS, lambda wire: PandaClient(wire).acquire_job(QUESTION), (*SERVER, BadJob)),
        ("update_job", 500, UPDATED, updated, SERVER),
        ("get_job_status", 300, STATUS, lambda wire: PandaClient(wire).job_status(1), SERVER),
        (
            "get_resource_types",
            100,
            [good([{"resource_name": "SCORE"}])],
            lambda wire: PandaClient(wire).resource_types(),
            SERVER,
        ),
        ("documents", 200, [{"Q": {"status": "online"}}], lambda wire: wire.document(f"{server.url}/q.json"), SERVER),
        ("acquire_event_ranges", 300, RANGES, events, SERVER),
        ("the end of an event", 300, COMMANDS, lambda wire: EventClient(wire).finish(RANGE), SERVER),
        ("what events are held", 200, STATUSES, lambda wire: EventClient(wire).held(4711, 31), SERVER),
        ("ends of many events", 200, STATUSES, lambda wire: EventClient(wire).update(4711, 31, [told]), SERVER),
        ("iDDS", 500, POINTS, points(direct), SERVER),
        ("iDDS by the relay", 300, RELAYED, points(RelayedIdds), SERVER),
        (
            "losses for iDDS",
            200,
            [{"status": 0, "message": "stored"}],
            lambda wire: direct(wire).tell(31, "1", 0.5),
            SERVER,
        ),
        ("losses for the relay", 200, TOLD, lambda wire: RelayedIdds(wire).tell(31, "1", 0.5), SERVER),
        ("credentials", 300, GRANTS, granted, SERVER),
        ("log uploads", 100, [good(None)], lambda wire: wire.upload(f"{server.url}/u", "n", b"x"), SERVER),
    ]
    bodies = [
        Border(name, cases, said(*examples), asks(call), refusals) for name, cases, examples, call, refusals in calls
    ]
    return [
        *bodies,
        Border("checkpoints", 200, stored(b"a tarball", 200, 404), asks(checkpoint), SERVER),
        Border(
            "plain answers",
            300,
            stored(b'{"success": true}', 200),
            asks(lambda wire: wire.get("/x", {}, Limits())),
            SERVER,
        ),
    ]


def _storage(server: RawServer) -> list[Border]:
    side = Side(f"{server.url}/d/f?authz=x", "token")
    folder = side._replace(url=f"{server.url}/d/")

    def asks(call: Callable[[], Any]) -> Callable[[list[bytes]], Any]:
        def ask(answers: list[bytes]) -> Any:
            server.say(*answers)
            return call()

        return ask

    def download() -> Any:
        with http.reading(side, AROUND, Quiet(), compared=True) as source:
            return sum(map(len, source.chunks))

    def third(way: str) -> Callable[[], Any]:
        other = Side("https://other.example/d/f")
        sides = (side, other) if way == "push" else (other, side)
        return lambda: third_party.copy(Order(*sides, 12, None, False, False, way), Quiet(), AROUND)

    def uploads(several: list[list[bytes]]) -> None:
        """Each with a server of its own, at once: what has failed is removed after waits of more than a second."""
        with ThreadPoolExecutor(len(several)) as threads:
            for one in [threads.submit(_upload, answers) for answers in several]:
                with contextlib.suppress(*STORAGE):
                    one.result()

    listed, taken = stored(LISTING, 207), stored(b"", 201, 204, 404)
    return [
        Border(
            "looks at a file",
            500,
            stored(b"", 200, 404, 405),
            asks(lambda: look.stat(side, AROUND, "adler32", 12)),
            STORAGE,
        ),
        Border("looks without a checksum", 200, stored(b"", 200), asks(lambda: look.stat(side, AROUND, None)), STORAGE),
        Border("directories", 500, listed, asks(lambda: list(webdav.entries(folder, AROUND))), STORAGE),
        Border("properties", 200, stored(FILE_LISTING, 207), asks(lambda: webdav.size_of(side, AROUND)), STORAGE),
        Border(
            "new directories", 100, stored(b"", 201, 405, 409), asks(lambda: webdav.make_parents(side, AROUND)), STORAGE
        ),
        Border(
            "new names",
            100,
            stored(b"", 201, 404),
            asks(lambda: http.rename(side, f"{server.url}/d/g", AROUND)),
            STORAGE,
        ),
        Border(
            "whether names can be new",
            100,
            stored(b"", 404, 405),
            asks(lambda: http.renames(side, f"{server.url}/d/g", AROUND)),
            STORAGE,
        ),
        Border("removals", 100, stored(b"", 204, 404), asks(lambda: http.delete(side, AROUND)), STORAGE),
        Border(
            "uploads, 16 at once",
            5,
            lambda case: [_leave(case, taken(case)) for _ in range(16)],
            uploads,
            (),
            slow_s=15,
        ),
        Border("downloads", 300, stored(CONTENT, 200, 206), asks(download), STORAGE),
        Border("pulled copies", 300, copied, asks(third("pull")), STORAGE),
        Border("pushed copies", 200, copied, asks(third("push")), STORAGE),
    ]


def _upload(answers: list[bytes]) -> None:
    with contextlib.closing(RawServer()) as server:
        server.say(*answers)
        order = Order(Side("file:///x"), Side(f"{server.url}/d/f"), 12, None, False, False, "")
        size = 12 if len(answers) % 2 else 1 << 17
        with http.writing(order.destination, Little(size), AROUND, overwrite=True):
            pass


def _leave(case: Mutator, answers: list[bytes]) -> list[bytes]:
    """With leave to send the body in front of the first, mostly."""
    return [b"HTTP/1.1 100 Continue\r\n\r\n" * case.pick([0, 1, 1, 2]) + answers[0], *answers[1:]]


class Little:
    """What is uploaded; much of it is not sent unasked."""

    url = "file:///x"

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(self.size)
