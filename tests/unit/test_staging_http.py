"""The decisions of the web tools that need no server: redirects, digests, statuses, marks of a version, markers."""

from __future__ import annotations

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from pilot.staging.order import Around, Order, Side
from pilot.staging.worker.web import calls, look, resume, third_party, webdav
from pilot.values.errors import Denied, Exists, FileMissing, NoSpace, StageError, Stalled, TransferFailed, Unreachable

AROUND = Around(connect_s=1, idle_s=2, keep_s=1, ca_path="", http_proxy="")


def answer(status: int, **headers: str) -> urllib3.HTTPResponse:
    return urllib3.HTTPResponse(status=status, headers={name.replace("_", "-"): text for name, text in headers.items()})


class Moves:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.verified: list[int] = []

    def moved(self, total_bytes: int) -> None:
        self.totals.append(total_bytes)

    def writing(self, url: str) -> None: ...

    def verifying(self, size: int) -> None:
        self.verified.append(size)

    def note(self, text: str, **keys: object) -> None: ...


@pytest.mark.parametrize(
    ("header", "told", "kind", "found"),
    [
        ("Digest", "adler32=A3D2A367", "adler32", "a3d2a367"),
        ("Digest", "md5=kjh+/==,ADLER32=2a367", "adler32", "0002a367"),
        ("Digest", "adler32=03da0195, crc32c=WlKVlg==", "adler32", "03da0195"),
        ("Digest", "adler32=A9oBlQ==", "adler32", "03da0195"),
        ("Digest", "adler32=not-hex", "adler32", None),
        ("Digest", "adler32=a3d2a36700", "adler32", None),
        ("Digest", "crc32c=WlKVlg==", "adler32", None),
        ("Digest", "", "adler32", None),
        ("Digest", "md5=OYUz1IER6fZksfZMsQxLYw==", "md5", "398533d48111e9f664b1f64cb10c4b63"),
        ("Digest", "adler32=03da0195,md5=398533D48111E9F664B1F64CB10C4B63", "md5", "398533d48111e9f664b1f64cb10c4b63"),
        ("Digest", "md5=398533d4", "md5", None),
        ("Repr-Digest", "sha=:AAAA:, md5=:OYUz1IER6fZksfZMsQxLYw==:", "md5", "398533d48111e9f664b1f64cb10c4b63"),
        ("Repr-Digest", "adler=:A9oBlQ==:", "adler32", "03da0195"),
    ],
)
def test_a_checksum_is_found_in_hex_and_in_base64(header, told, kind, found):
    assert look.digest({header: told}, kind) == found


@given(st.text(max_size=60), st.sampled_from(["adler32", "md5"]))
def test_whatever_stands_in_a_digest_header_is_a_checksum_or_nothing(text, kind):
    found = look.digest({"Digest": f"{kind}={text}"}, kind)

    assert found is None or len(bytes.fromhex(found)) == (4 if kind == "adler32" else 16)


@pytest.mark.parametrize(
    ("status", "method", "location", "target"),
    [
        (302, "PUT", "https://pool/f?key=1", "https://pool/f?key=1"),
        (307, "GET", "/other", "https://door/other"),
        (308, "COPY", "f2", "https://door/f2"),
        (303, "GET", "davs://pool/f", "https://pool/f"),
        (303, "PUT", "https://pool/f", None),
        (200, "GET", "https://pool/f", None),
        (302, "GET", "", None),
    ],
)
def test_a_redirect_leads_where_its_method_may_follow(status, method, location, target):
    assert calls.redirected(answer(status, Location=location), method, "https://door/f") == target


UTF_8, LATIN_1 = "/d/\u00c5 \u0445.root".encode().decode("latin-1"), "/d/\u00fc"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (UTF_8, "https://door/d/%C3%85%20%D1%85.root"),
        (LATIN_1, "https://door/d/%FC"),
        ("/d/%C3%85%20.root", "https://door/d/%C3%85%20.root"),
        ("/d/%c3%85", "https://door/d/%c3%85"),
        ("x/../y?a=%2F&b=" + "\u00fc".encode().decode("latin-1"), "https://door/d/y?a=%2F&b=%C3%BC"),
        ("//pool:1094/f", "https://pool:1094/f"),
        ("?key=1", "https://door/d/f?key=1"),
        (" https://pool/f ", "https://pool/f"),
        ("https://b\u00fccher.example/f".encode().decode("latin-1"), "https://xn--bcher-kva.example/f"),
        ("https://b%C3%BCcher.example:81/f", "https://xn--bcher-kva.example:81/f"),
        ("https://[::1]:1094/f", "https://[::1]:1094/f"),
    ],
)
def test_a_location_may_be_in_any_alphabet_and_be_relative(location, target):
    assert calls.redirected(answer(302, Location=location), "GET", "https://door/d/f") == target


@pytest.mark.parametrize("location", ["https://[bad/f", "https://host:99999/f", "https://host:x/f", "https://%ff%fe/f"])
def test_a_location_that_is_no_address_is_told_as_such(location):
    with pytest.raises(TransferFailed, match="no address"):
        calls.redirected(answer(302, Location=location), "GET", "https://door/d/f")


@given(st.text(alphabet=st.characters(max_codepoint=255), min_size=1, max_size=60))
def test_whatever_stands_in_a_location_is_an_address_or_an_error(text):
    try:
        target = calls.redirected(answer(302, Location=text), "GET", "https://door/d/f")
    except TransferFailed:
        return

    assert target is None or target.isascii()


@pytest.mark.parametrize("location", ["http://pool/f", "dav://pool/f", "file:///etc/passwd", "ftp://pool/f"])
def test_a_redirect_away_from_tls_is_not_followed(location):
    with pytest.raises(TransferFailed, match="not followed"):
        calls.redirected(answer(302, Location=location), "GET", "https://door/f")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Denied),
        (403, Denied),
        (404, FileMissing),
        (409, Exists),
        (410, FileMissing),
        (412, Exists),
        (413, NoSpace),
        (418, TransferFailed),
        (429, Unreachable),
        (304, TransferFailed),
        (500, Unreachable),
        (503, Unreachable),
        (507, NoSpace),
    ],
)
def test_each_status_has_its_word(status, error):
    assert type(told := calls.complaint(answer(status), "https://host/f?authz=secret", "PUT")) is error
    assert "secret" not in str(told)


@pytest.mark.parametrize(("method", "status"), [("GET", 412), ("HEAD", 409), ("DELETE", 409)])
def test_only_who_writes_can_meet_another_file(method, status):
    assert type(calls.complaint(answer(status), "https://host/f", method)) is TransferFailed


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7),
        (" 120 ", 120),
        ("86400", 300),
        ("Thu, 01 Jan 1970 00:17:00 GMT", 20),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 300),
        ("soon", 0),
        ("-5", 0),
        ("Thu, 99 Jan 99999999999 00:00:00 GMT", 0),
        ("", 0),
    ],
)
def test_a_pause_that_is_asked_for_is_understood_and_bounded(told, seconds):
    assert calls.pause_s(told, now=1000) == seconds


@pytest.mark.parametrize(("status", "pause"), [(503, 9), (429, 9), (404, 0)])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(status, pause):
    assert calls.complaint(answer(status, Retry_After="9"), "https://host/f", "GET").pause_s == pause


BEFORE = "Sun, 22 Nov 2026 11:59:00 GMT"
NOON = "Sun, 22 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "mark"),
    [
        ({"ETag": '"a1"'}, '"a1"'),
        ({"ETag": 'W/"a1"'}, ""),
        ({"ETag": "a1"}, ""),
        ({"ETag": 'W/"a1"', "Last-Modified": BEFORE, "Date": NOON}, BEFORE),
        ({"Last-Modified": "Sun, 22 Nov 2026 11:59:58 GMT", "Date": NOON}, ""),  # it may change within this second
        ({"Last-Modified": BEFORE}, ""),
        ({"Last-Modified": "yesterday", "Date": NOON}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_only_what_is_certain_marks_a_version(headers, mark):
    assert resume.version(headers) == mark


@pytest.mark.parametrize(("length", "size"), [("0", 0), ("12", 12), ("", None), ("-1", None), ("1" * 30, None)])
def test_a_length_that_makes_no_sense_is_none(length, size):
    assert resume.announced({"Content-Length": length}) == size


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/top/dir/", None),
        ("/top//dir", None),
        ("/top/dir/a%20b", "a b"),
        ("/top/dir/a b%.dat", "a b%.dat"),  # of xrootd, which does not encode
        ("https://elsewhere:99/top/dir/sub/", "sub"),
    ],
)
def test_a_name_in_a_list_is_found_below_its_directory(path, name):
    assert webdav._name(path, "/top/dir/", "https://host/top/dir") == name


@pytest.mark.parametrize(
    "path",
    [
        "/top/dir/../x", "/top/dir/..", "/top/dir/%2e%2e", "/top/dir/%2E%2E/x", "/top/dir/a%2fb", "/top/dir/a/b",
        "/top", "/", "", "/top/dirt", "/etc/passwd", "/top/dir/.", "/top/dir/a%00b", "/top/dir/a%0ab", "x",
        "https://host/etc/passwd",
    ],
)  # fmt: skip
def test_a_name_that_leaves_its_directory_is_refused(path):
    with pytest.raises(TransferFailed, match="not in it"):
        webdav._name(path, "/top/dir/", "https://host/top/dir")


def order(size: int | None = None) -> Order:
    return Order(
        Side("https://a/f?authz=s3cret", "tokenA"), Side("https://b/g", "tokenB"), size, None, False, False, "pull"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('Remote side failed with status code 404; error message: "Unable to open"', FileMissing),
        ("Remote side failed with status code 403; error message", Denied),
        ("rejected GET: 401 HTTP status code: 401", Denied),
        ("HTTP/1.1 507 Insufficient Storage", NoSpace),
        ("Failed to write: no space left on device (code=28)", NoSpace),
        ("Couldn't connect to server", Unreachable),
        ("Couldn't resolve host name", Unreachable),
        ("Remote side failed with status code 503", Unreachable),
        ("Timeout was reached", Stalled),
        ("Transfer stalled for 60 s", Stalled),
        ("something else", TransferFailed),
        ("the file has 404 bytes, which is too few", TransferFailed),
    ],
)
def test_what_a_server_says_of_a_failed_copy_has_its_word(text, error):
    assert type(third_party._failure(text, order())) is error


def test_what_a_server_says_gives_no_secret_away():
    text = "GET https://a/f?authz=s3cret with Authorization: Bearer other-token, tokenA, tokenB, eyJhb.eyJzd.x-_ failed"

    told = str(third_party._failure(text, order()))

    for secret in ("s3cret", "other-token", "tokenA", "tokenB", "eyJ"):
        assert secret not in told
    assert "failed" in told


DCACHE = """\
Perf Marker
    Timestamp: 1360578938
    State: 3
    State description: querying file size
    Stripe Index: 0
    Stripe Start Time: 1360578930
    Stripe Last Transferred: 1360578938
    Stripe Transfer Time: 8
    Stripe Bytes Transferred: 100
    Stripe Status: RUNNING
    Total Stripe Count: 2
    RemoteConnections: tcp:[2001:db8::1]:80,tcp:192.0.2.1:443
End
Perf Marker
    Stripe Index: 1
    Stripe Bytes Transferred: 50
    Total Stripe Count: 2
End
Perf Marker
    Stripe Index: 0
    Stripe Bytes Transferred: 300
End
"""


def ended(text: str, size: int | None = None) -> tuple[str | None, Moves]:
    moves = Moves()
    lines = (line.strip() for line in text.split("\n"))
    return third_party._ended(lines, order(size), moves, AROUND), moves


def test_the_bytes_of_all_stripes_are_added_up():
    text, moves = ended(DCACHE + "success: Created")

    assert text == ""
    assert moves.totals == [100, 150, 350]


def test_a_server_that_reads_all_of_it_again_is_given_time():
    _, moves = ended(DCACHE + "success: Created", size=350)

    assert moves.verified == [350]


@pytest.mark.parametrize(
    ("last", "text"),
    [
        ("success: Created", ""),
        ("Success", ""),
        ("failure: gone wrong", "gone wrong"),
        ("failure:", "it gives no reason"),
        ("", None),
        ("successive approximation", None),
        ("<p>success: Created</p>", None),
        ("End", None),
    ],
)
def test_only_a_last_line_that_says_so_is_success(last, text):
    assert ended(DCACHE + last)[0] == text


@given(st.text(max_size=300))
def test_whatever_a_server_says_it_is_no_success_unless_it_says_so(text):
    try:
        told = ended(text)[0]
    except StageError:
        return
    assert told != "" or "success" in text.lower()
