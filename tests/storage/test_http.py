"""The web tool against real servers and against faulty ones: resumed, redirected, refused, listed."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import ssl
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pilot.staging.order import Around, Done, Entry, Order, Side
from pilot.staging.worker.copy import copy
from pilot.staging.worker.tool import Stat
from pilot.staging.worker.web import http, webdav
from pilot.values.deadline import Deadline
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    Mismatch,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)
from tests.storage.fault_server import BODY
from tests.storage.plain_store import PlainStore, Ways
from tests.storage.web import Answers, WebServer

CHECKSUM = ("adler32", f"{zlib.adler32(BODY):08x}")
TOKEN = "the-token-of-the-origin"


class Told:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[dict[str, object]] = []

    def moved(self, total_bytes: int) -> None: ...

    def writing(self, url: str) -> None: ...

    def verifying(self, size: int) -> None: ...

    def note(self, text: str, **keys: object) -> None:
        self.notes.append({"text": text, **keys})


class Some:
    """Content for a target; ``size`` None: nobody knows how long it is."""

    def __init__(self, *chunks: bytes, size: int | None = -1) -> None:
        self._chunks = chunks
        self.size = sum(map(len, chunks)) if size == -1 else size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def around(ca_path: str) -> Around:
    return Around(connect_s=3, idle_s=10, keep_s=5, ca_path=ca_path, http_proxy="")


@pytest.fixture
def fetch(around: Around, told: Told, tmp_path: Path):
    """Download into the work directory."""

    def fetch(url: str, checksum: tuple[str, str] | None = None, around: Around = around) -> Done:
        target = Side(f"file://{tmp_path}/work/in")
        return copy(Order(Side(url), target, None, checksum, False, False, ""), told, around)

    yield fetch
    assert not list(tmp_path.rglob("*.part"))


def put(side: Side, content: bytes, around: Around, *, overwrite: bool = False) -> None:
    with http.writing(side, Some(content), around, overwrite=overwrite):
        pass


def ranges(server: WebServer) -> list[str | None]:
    return [seen.headers["Range"] for seen in server.seen if seen.method == "GET"]


# Downloads that break off


def test_a_download_goes_on_where_it_broke_off(faults, fetch, told, tmp_path):
    fetch(faults.url("resume/2/1000000"))

    assert (tmp_path / "work/in").read_bytes() == BODY
    assert ranges(faults) == [None, "bytes=1000000-3145727", "bytes=2000000-3145727"]
    assert [seen.headers["If-Range"] for seen in faults.seen if seen.method == "GET"] == [None, '"one"', '"one"']
    assert [note["bytes"] for note in told.notes] == [1000000, 2000000]
    assert "IncompleteRead" in told.notes[0]["why"]


@pytest.mark.parametrize("path", ["notag/1/1000000", "emptyrange/1/1000000"])
def test_without_a_mark_of_its_version_only_what_is_compared_goes_on(path, faults, fetch, told, tmp_path):
    fetch(faults.url(path), CHECKSUM)

    assert (tmp_path / "work/in").read_bytes() == BODY
    assert len(told.notes) == 1


def test_without_a_mark_and_a_checksum_nothing_goes_on(faults, fetch):
    with pytest.raises(Unreachable, match="IncompleteRead"):
        fetch(faults.url("notag/1/1000000"))

    assert ranges(faults) == [None]


@pytest.mark.parametrize("path", ["changes", "norange", "wrongrange", "norangeatall"])
def test_a_rest_that_may_be_another_files_is_not_taken(path, faults, fetch, told, tmp_path):
    with pytest.raises(Unreachable, match="does not go on"):
        fetch(faults.url(f"{path}/1/1000000"), CHECKSUM)

    assert len(ranges(faults)) == 2
    assert told.notes == []
    assert not (tmp_path / "work/in").exists()


def test_a_download_that_brings_nothing_new_is_given_up(faults, fetch):
    with pytest.raises(Unreachable):
        fetch(faults.url("resume/9/0"), CHECKSUM)

    assert ranges(faults) == [None]


def test_a_download_does_not_go_on_for_ever(faults, fetch):
    with pytest.raises(Unreachable):
        fetch(faults.url("resume/99/100000"), CHECKSUM)

    assert len(ranges(faults)) == 9


@pytest.mark.parametrize("mode", ["stall", "rst", "cut"])
def test_a_connection_that_stalls_or_breaks_is_replaced(mode, faults, proxy, fetch, told, around, tmp_path):
    between = proxy(faults.server_port, mode, 2_000_000, faulty=1)

    fetch(between.http("resume/0/0"), CHECKSUM, around._replace(idle_s=1.0))

    assert (tmp_path / "work/in").read_bytes() == BODY
    assert len(told.notes) == 1
    assert ranges(faults)[0] is None
    assert len(ranges(faults)) == 2


def test_a_download_goes_on_before_its_lane_is_given_up(faults, proxy, open_lanes, download, stop):
    between = proxy(faults.server_port, "stall", 2_000_000, faulty=1)

    open_lanes(idle_s=2.0).move(download(between.http("resume/0/0"), BODY), Deadline.after(60), stop)

    first, second = ranges(faults)  # a lane that was killed would have begun anew
    assert first is None
    assert second is not None


def test_a_download_from_xrootd_goes_on(xrootd, proxy, fetch, told, tmp_path):
    xrootd.put("resumed", BODY)
    between = proxy(xrootd.web_port, "cut", 2_000_000, faulty=1)

    done = fetch(between.https("resumed"), CHECKSUM)

    assert (tmp_path / "work/in").read_bytes() == BODY
    assert done.verified == "checksum"
    assert len(told.notes) == 1


def test_a_stall_where_nothing_can_go_on_is_told_as_one(faults, fetch, around):
    with pytest.raises(Stalled):
        fetch(faults.url("stall/1000000"), None, around._replace(idle_s=0.5))

    assert ranges(faults) == [None]


def test_a_source_can_be_read_again_from_its_beginning(faults, around, told):
    with http.reading(Side(faults.url("resume/0/0")), around, told, compared=False) as source:
        once = b"".join(source.chunks)
        again = b"".join(source.chunks)

    assert once == again == BODY


def test_a_source_that_has_changed_is_not_read_again(faults, around, told):
    with http.reading(Side(faults.url("changes/1/99999999")), around, told, compared=False) as source:
        list(source.chunks)
        with pytest.raises(Unreachable, match="changed"):
            list(source.chunks)


def test_a_compressed_file_stays_compressed(faults, around, told):
    with http.reading(Side(faults.url("gzip/x")), around, told, compared=False) as source:
        assert gzip.decompress(b"".join(source.chunks)) == BODY


# What goes where


REQUESTS = {
    "HEAD": lambda side, around: http.stat(side, around, "adler32"),
    "GET": lambda side, around: contextlib.ExitStack().enter_context(
        http.reading(side, around, Told(), compared=False)
    ),
    "PUT": lambda side, around: put(side, b"content", around, overwrite=True),
    "DELETE": http.delete,
    "PROPFIND": lambda side, around: list(http.entries(side, around)),
}


@pytest.mark.parametrize("method", REQUESTS)
def test_a_token_reaches_its_origin_and_nobody_else(method, secure_faults, secure_canary, around):
    side = Side(secure_faults.away(secure_canary.url("song")), TOKEN)

    REQUESTS[method](side, around._replace(redirects=("127.0.0.1",)))

    assert secure_faults.tokens == [f"Bearer {TOKEN}"]
    assert [seen.method for seen in secure_canary.seen] == [method]
    assert TOKEN not in str([(seen.path, seen.headers.items()) for seen in secure_canary.seen])


def test_a_token_comes_back_to_its_origin_only(faults, around):
    # Another name is another origin: who says where it leads may not be who answers there.
    here, there = f"127.0.0.1:{faults.server_port}", f"localhost:{faults.server_port}"
    path = f"away/307/http/{there}/away/307/http/{here}/fine/x"

    http.stat(Side(faults.url(path), TOKEN), around, None)

    assert [(seen.headers["Host"], seen.authorization) for seen in faults.seen] == [
        (here, f"Bearer {TOKEN}"),
        (there, None),
        (here, f"Bearer {TOKEN}"),
    ]


def test_a_redirect_from_https_to_http_is_refused(secure_faults, canary, around):
    with pytest.raises(TransferFailed, match="not followed"):
        http.stat(Side(secure_faults.away(canary.url("song")), TOKEN), around, None)

    assert canary.seen == []


def test_a_token_of_several_lines_is_refused_without_being_quoted(faults, around):
    with pytest.raises(Denied) as caught:
        http.stat(Side(faults.url("fine/x"), f"{TOKEN}\nX-Evil: 1"), around, None)

    assert TOKEN not in str(caught.value)
    assert faults.seen == []


class Doorman(Answers):
    """Writes down who comes, by their certificates, and may send them on."""

    def answer(self) -> None:
        self.remember()
        assert isinstance(self.connection, ssl.SSLSocket)
        self.server.certificates.append(bool(self.connection.getpeercert()))
        self.body()
        target = self.server.target
        self.head(307 if target else 200, **({"Location": target} if target else {}))


CHANGES = {
    "PUT": lambda side, around: put(side, b"content", around, overwrite=True),
    "PUT, large": lambda side, around: put(side, BODY, around, overwrite=True),
    "DELETE": http.delete,
    "MOVE": lambda side, around: http.rename(side, side.url, around),
    "MKCOL": lambda side, around: webdav.make_parents(side._replace(url=f"{side.url}/x"), around),
}


@pytest.mark.parametrize("code", [301, 302, 307, 308])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("allowed", ["", "*.example.org", "127.0.0.1:9"])
def test_nothing_is_changed_at_another_origin(allowed, change, code, faults, canary, around):
    side = Side(faults.away(canary.url("song"), code))

    with pytest.raises(TransferFailed, match=rf"on to 127\.0\.0\.1:{canary.server_port}, which is another origin"):
        CHANGES[change](side, around._replace(redirects=(allowed,)))

    assert canary.seen == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pattern", ["127.0.0.1", "127.0.*", "127.0.0.1:{port}"])
def test_a_data_server_that_the_settings_name_is_gone_to(pattern, change, faults, canary, around):
    allowing = around._replace(redirects=("other.example.org", pattern.format(port=canary.server_port)))

    CHANGES[change](Side(faults.away(canary.url("song"))), allowing)

    assert [seen.method for seen in canary.seen] == [change.partition(",")[0]]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.parametrize("name", ["\u00c5.root", "\u0445\u043e\u0440\u043e\u0448\u043e", "\u6587\u4ef6", "a b"])
def test_a_redirect_to_a_name_in_any_alphabet_is_followed(name, method, around):
    with PlainStore(Ways(moved={"/f": f"/d/{name}"})) as server:
        server.files[f"/d/{name}"] = b"content"

        if method == "PUT":
            put(Side(server.url("f")), b"another", around, overwrite=True)
        elif method == "HEAD":
            assert http.stat(Side(server.url("f")), around, None).size == 7
        else:
            with http.reading(Side(server.url("f")), around, Told(), compared=False) as source:
                assert b"".join(source.chunks) == b"content"

    assert server.files == {f"/d/{name}": b"another" if method == "PUT" else b"content"}


@pytest.mark.parametrize("method", REQUESTS)
def test_a_redirect_in_circles_has_an_end(method, faults, around):
    with pytest.raises(TransferFailed, match="more than 5 redirects"):
        REQUESTS[method](Side(faults.url("loop/x")), around)

    assert len(faults.seen) <= 3 * 6


def test_a_path_of_the_same_origin_may_change(faults, around):
    put(Side(faults.url("movedput/x")), BODY, around)  # large: it asks first, as the server hangs up on what is sent

    assert faults.stored["/landed/file"] == BODY


@contextlib.contextmanager
def doorman(ca: trustme.CA, target: str = "") -> Iterator[WebServer]:
    server = WebServer(Doorman, ca)
    server._tls.verify_mode = ssl.CERT_OPTIONAL
    ca.configure_trust(server._tls)
    server.certificates, server.target = [], target
    with server:
        yield server


def test_a_client_certificate_is_shown_to_its_origin_only(ca, around, tmp_path):
    path = tmp_path / "proxy.pem"
    ca.issue_cert("pilot@example.org").private_key_and_cert_chain_pem.write_to_path(str(path))

    with doorman(ca) as pool, doorman(ca, pool.url("f")) as door:
        allowing = around._replace(redirects=("127.0.0.1",))
        put(Side(door.url("f"), certificate=str(path)), b"content", allowing, overwrite=True)
        http.stat(Side(door.url("f")), around, None)  # nor does its connection serve who has none

    assert door.certificates == [True, False]
    assert pool.certificates == [False, False]


def test_a_certificate_that_cannot_be_used_is_told_without_a_prompt(faults, around, tmp_path):
    path = tmp_path / "proxy.pem"
    path.write_text("no certificate")

    with pytest.raises(Denied, match=r"proxy\.pem"):
        http.stat(Side(faults.url("fine/x"), certificate=str(path)), around, None)


def test_a_proxy_is_asked_with_its_own_password(canary, around):
    through = around._replace(http_proxy=f"http://me:p%40ss@127.0.0.1:{canary.server_port}")

    http.stat(Side("http://storage.example.org/f"), through, None)

    assert canary.requests == ["http://storage.example.org/f"]
    assert canary.seen[0].headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss


def test_connections_are_kept(xrootd, proxy, around, told):
    xrootd.put("kept", b"content")
    between = proxy(xrootd.web_port)
    side = Side(between.http("kept"))

    for _ in range(3):
        http.stat(side, around, "adler32")
        with http.reading(side, around, told, compared=True) as source:
            assert b"".join(source.chunks) == b"content"
        put(Side(between.http("kept-too")), b"content", around, overwrite=True)

    assert between.connections == 1


# Stat


def test_xrootd_tells_each_kind_of_checksum(xrootd, around):
    xrootd.put("summed", BODY)

    assert http.stat(Side(xrootd.davs("summed")), around, None) == Stat(len(BODY), None)
    assert http.stat(Side(xrootd.davs("summed")), around, "adler32") == Stat(len(BODY), CHECKSUM[1])
    assert http.stat(Side(xrootd.davs("summed")), around, "md5") == Stat(len(BODY), hashlib.md5(BODY).hexdigest())
    with pytest.raises(FileMissing):
        http.stat(Side(xrootd.davs("nowhere")), around, "md5")


def test_a_server_may_take_its_time_for_the_checksum_of_a_large_file(faults, proxy, around):
    # 2 KiB a second: the answer comes within the second that 50 MB are allowed, and not within the limit for silence.
    impatient = around._replace(idle_s=0.02)
    side = Side(proxy(faults.server_port, "slow", 2000).http("fine/x"))

    assert http.stat(side, impatient, "adler32", 50_000_000).size == len(BODY)
    with pytest.raises(Stalled):
        http.stat(side, impatient, "adler32", 0)


@pytest.mark.parametrize("path", ["busy/1/7", "code/429"])
def test_a_busy_server_is_unreachable_for_now(path, faults, fetch):
    with pytest.raises(Unreachable) as caught:
        fetch(faults.url(path))

    assert caught.value.pause_s == (7 if "busy" in path else 0)


# Uploads


def test_an_upload_whose_length_nobody_knows_is_sent_in_chunks(canary, around):
    # Not to xrootd: 5.5.3 takes one of these and answers 400 to all that follow.
    with http.writing(Side(canary.url("chunked")), Some(b"one", b"two", size=None), around, overwrite=True):
        assert canary.stored == {"/chunked": b"onetwo"}


@pytest.mark.parametrize("path", ["longchunk/0", "truncnolen/1000000"])
def test_a_length_that_only_the_catalogue_knows_is_announced(path, faults, canary, around, told):
    order = Order(Side(faults.url(path)), Side(canary.url("known")), len(BODY), CHECKSUM, False, True, "", ours=True)

    with pytest.raises(Mismatch, match="1000000 bytes") if "trunc" in path else contextlib.nullcontext():
        copy(order, told, around)

    assert canary.asked("PUT", "/known")[0].headers["Content-Length"] == str(len(BODY))


def test_an_upload_does_not_take_the_place_of_another_file(xrootd, around):
    old = xrootd.put("taken", b"old")

    with pytest.raises(Exists, match="3 bytes"):
        put(Side(xrootd.http("taken")), b"new", around)
    assert old.read_bytes() == b"old"

    put(Side(xrootd.http("taken")), b"new", around, overwrite=True)
    assert old.read_bytes() == b"new"


def test_who_may_only_write_writes_without_a_look(guarded, issuer, around):
    token = issuer.token("storage.create:/written")

    put(Side(guarded.https("written/out"), token), b"content", around)

    assert (guarded.data / "written/out").read_bytes() == b"content"


@pytest.mark.parametrize("lifetime_s", [-60, 3600])
def test_an_upload_without_the_right_to_it_is_denied(lifetime_s, guarded, issuer, around):
    token = issuer.token("storage.read:/", lifetime_s=lifetime_s)

    with pytest.raises(Denied) as caught:
        put(Side(guarded.https("refused"), token), b"content", around)

    assert token not in str(caught.value)
    assert not (guarded.data / "refused").exists()


def test_an_error_behind_an_upload_removes_it(xrootd, around):
    def fail_later() -> None:
        with http.writing(Side(xrootd.http("removed")), Some(b"content"), around, overwrite=False):
            assert (xrootd.data / "removed").exists()
            raise Unreachable("later")

    with pytest.raises(Unreachable, match="later"):
        fail_later()

    assert not (xrootd.data / "removed").exists()


def test_a_source_that_breaks_off_leaves_nothing_at_the_target(xrootd, faults, around, told):
    order = Order(Side(faults.url("short/x")), Side(xrootd.http("half")), None, None, False, False, "")

    with pytest.raises(Unreachable, match="IncompleteRead"):
        copy(order, told, around)

    assert not (xrootd.data / "half").exists()


@pytest.mark.parametrize(("path", "deleted"), [("code/403", 0), ("early/403", 0), ("code/507", 1), ("dropput/x", 1)])
def test_what_was_refused_is_not_deleted(path, deleted, faults, around):
    with pytest.raises(StageError):
        put(Side(faults.url(path)), BODY, around, overwrite=True)

    assert len(faults.asked("DELETE", f"/{path}")) == deleted


def test_a_target_that_was_never_reached_is_not_deleted(faults, proxy, around):
    # The way to the server is lost for one connection, and there again for the next.
    between = proxy(faults.server_port, "flaky", 1)

    with pytest.raises(Unreachable):
        put(Side(between.https("fine/old")), b"new", around, overwrite=True)

    assert faults.requests == []
    assert between.connections == 1


def test_a_redirected_upload_is_sent_again_even_from_another_server(faults, secure_faults, secure_canary, around, told):
    # The first server hangs up while the body is on its way: its answer must be read all the same.
    order = Order(
        Side(faults.url("fine/x")), Side(secure_faults.away(secure_canary.url("landed"))), None, None, False, True, ""
    )

    copy(order._replace(ours=True), told, around._replace(redirects=("127.0.0.1",)))

    assert secure_canary.stored == {"/landed": BODY}


def test_a_full_disk_of_xrootd_is_explained_and_cleared(xrootd, around):
    with xrootd.small_disk("small") as disk:
        with pytest.raises(Unreachable, match="disk is full"):
            put(Side(xrootd.http("small/out")), bytes(8 << 20), around)

        assert list(disk.iterdir()) == []


class Dav(Answers):
    """A WebDAV server that makes no directories by itself."""

    def answer(self) -> None:
        self.remember()
        content = self.body()
        parent = self.path.rstrip("/").rpartition("/")[0]
        folders = self.server.folders
        if parent not in folders:
            # somebody else makes the directory just now
            folders |= {parent} & self.server.made_by_others
            self.head(409)
        elif self.command == "MKCOL":
            self.head(405 if self.path.rstrip("/") in folders else 201)
            folders.add(self.path.rstrip("/"))
        else:
            self.server.stored[self.path] = content
            self.head(201)


@pytest.fixture
def dav() -> Iterator[WebServer]:
    server = WebServer(Dav)
    server.folders, server.stored, server.made_by_others = {"", "/top"}, {}, set()
    with server:
        yield server


def test_missing_directories_are_made(dav, around):
    put(Side(dav.url("top/a/b/out")), b"content", around, overwrite=True)

    assert dav.stored == {"/top/a/b/out": b"content"}
    assert [seen.path for seen in dav.seen if seen.method == "MKCOL"] == ["/top/a/b/", "/top/a/", "/top/a/b/"]


def test_a_directory_that_somebody_else_has_made_meanwhile_will_do(dav, around):
    dav.made_by_others.add("/top/a")

    put(Side(dav.url("top/a/out")), b"content", around, overwrite=True)

    assert dav.stored == {"/top/a/out": b"content"}


def test_a_conflict_stays_one_where_no_directory_helps(dav, around):
    dav.folders.clear()

    with pytest.raises(Exists, match="HTTP 409"):
        put(Side(dav.url("top/out")), b"content", around, overwrite=True)


def test_deleting_what_is_not_there_is_fine(xrootd, around):
    http.delete(Side(xrootd.http("nowhere")), around)


def test_a_certificate_of_another_authority_is_told_as_such(xrootd, around, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))

    with pytest.raises(TransferFailed, match="certificate is not accepted"):
        http.stat(Side(xrootd.https("x")), around._replace(ca_path=str(other)), None)


def test_authorities_may_be_a_directory(xrootd, around):
    xrootd.put("trusted", b"content")

    assert http.stat(Side(xrootd.https("trusted")), around._replace(ca_path=str(xrootd.authorities)), None).size == 7


# Directories


def test_a_directory_of_xrootd_is_listed_with_all_below_it(xrootd, around):
    for name in ("one", "sub/two", "sub/deep/a b%.dat"):
        xrootd.put(f"listed/{name}", name.encode())
    (xrootd.data / "listed/empty").mkdir()

    assert sorted(http.entries(Side(xrootd.davs("listed")), around)) == [
        Entry("one", 3),
        Entry("sub/deep/a b%.dat", 17),
        Entry("sub/two", 7),
    ]


def test_a_missing_directory_and_a_file_are_told_apart(xrootd, around):
    xrootd.put("file", b"content")

    with pytest.raises(FileMissing):
        list(http.entries(Side(xrootd.http("nowhere")), around))
    with pytest.raises(TransferFailed, match="not a directory"):
        list(http.entries(Side(xrootd.http("file")), around))


def listing(*paths: str) -> bytes:
    """A multistatus in the way of Apache; a path that ends in a slash is a directory."""
    folder = "<D:resourcetype><D:collection/></D:resourcetype>"
    file = "<D:resourcetype/><D:getcontentlength>5</D:getcontentlength>"
    parts = (
        f"<D:response><D:href>{path}</D:href><D:propstat><D:prop>{folder if path.endswith('/') else file}</D:prop>"
        "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        for path in paths
    )
    return f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{"".join(parts)}</D:multistatus>'.encode()


class Lister(Answers):
    """Answers every PROPFIND with the same bytes."""

    def answer(self) -> None:
        self.remember()
        self.body()
        self.head(self.server.status, len(self.server.answer))
        self.wfile.write(self.server.answer)


@pytest.fixture
def lister() -> Iterator[WebServer]:
    server = WebServer(Lister)
    server.status, server.answer = 207, b""
    with server:
        yield server


def test_names_are_decoded(lister, around):
    lister.answer = listing("/dir/", "/dir/a%20b", "/dir/%C3%A4")

    assert list(http.entries(Side(lister.url("dir")), around)) == [Entry("a b", 5), Entry("ä", 5)]
    assert lister.seen[0].headers["Depth"] == "1"


BOMB = b"""<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<D:multistatus xmlns:D="DAV:"><D:response><D:href>/dir/&c;</D:href></D:response></D:multistatus>"""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (listing("/dir/", "/dir/../../etc/passwd"), "not in it"),
        (listing("/dir/", "/dir/%2e%2e/%2e%2e/x"), "not in it"),
        (listing("/dir/", "/elsewhere/x"), "not in it"),
        (listing("/dir/", "http://127.0.0.1/etc/x"), "not in it"),
        (BOMB, "DOCTYPE"),
        (BOMB.decode().encode("utf-16"), "DOCTYPE"),
        (b"<html><p>hello</html>", "cannot be read"),
        (b"", "cannot be read"),
        (listing("/dir/", "/dir/x")[:-20], "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_trusted_is_refused(answer, words, lister, around):
    lister.answer = answer

    with pytest.raises(TransferFailed, match=words):
        list(http.entries(Side(lister.url("dir")), around))


def test_a_list_without_an_end_is_not_read_to_it(lister, around):
    lister.answer = b"<a>" + b" " * (66 << 20)

    with pytest.raises(TransferFailed, match="more than"):
        list(http.entries(Side(lister.url("dir")), around))


def test_a_directory_that_contains_itself_has_an_end(around):
    class Endless(Lister):
        def answer(self) -> None:
            self.server.answer = listing(f"{self.path}/", f"{self.path}/again/")
            super().answer()

    server = WebServer(Endless)
    server.status = 207
    with server, pytest.raises(TransferFailed, match="too deeply"):
        list(http.entries(Side(server.url("dir")), around))


def test_a_server_that_lists_nothing_is_told_as_such(lister, around):
    lister.status = 200

    with pytest.raises(TransferFailed, match="no list"):
        list(http.entries(Side(lister.url("dir")), around))


# Limits


def test_a_server_that_takes_nothing_more_is_given_up_at_the_idle_limit(faults, around):
    # The limit for connecting is longer: it is not the one for sending.
    impatient = around._replace(connect_s=60, idle_s=0.3)
    ended = threading.Event()
    body = Some(*[bytes(1 << 20)] * 64)

    with (
        pytest.raises(Stalled),
        http.writing(Side(faults.url("stuckput/x")), body, impatient, overwrite=True),
    ):
        ended.set()

    assert not ended.is_set()
