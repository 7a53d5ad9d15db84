"""Good examples of what servers and storages answer, and what stands in answers that are none."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.contract.recorded import EXCHANGES, IDDS_EXCHANGES
from tests.hostile.examples import OURS, SIMPLE
from tests.hostile.fuzz import UNICODE_DIGITS

RANGE = "31-4711-3-4-5"


def good(data: Any, **more: Any) -> dict[str, Any]:
    return {"success": True, "message": "", "data": data, **more}


def recorded(*names: str) -> list[Any]:
    """Answers of a live server to these calls."""
    whole = [one for one in EXCHANGES if one.call in names and not one.cut and one.status == 200]
    return [json.loads(one.reply) for one in whole if one.reply.startswith('{"')]


JOBS = [good({"StatusCode": 0, "jobs": [one]}) for one in (SIMPLE, OURS)] + recorded("pilot/acquire_jobs")
UPDATED = [
    good({"StatusCode": 0, "command": "tail x,debug", "pilotSecrets": '{"a": "secret-of-it"}'}),
    good({"StatusCode": 30, "ErrorDiag": "Failed to add meta_data"}),
    *recorded("pilot/update_job"),
]
STATUS = [good([{"job_id": 1, "status": "running", "attempt_number": 1}]), *recorded("pilot/get_job_status")]
RANGES = [
    good([{"eventRangeID": RANGE, "startEvent": 4, "lastEvent": 4, "LFN": "f", "GUID": "g", "scope": "s"}]),
    good(None, eventRanges=json.dumps([{"eventRangeID": RANGE, "startEvent": 4, "lastEvent": 4}]), StatusCode=0),
    *recorded("event/acquire_event_ranges"),
]
STATUSES = [
    good({"4711": {RANGE: {"status": "sent", "error": None}}}, StatusCode=0),
    *recorded("event/get_event_range_statuses"),
]
COMMANDS = [
    good({"Command": {"4711": "tobekilled"}}),
    {"success": False, "message": "database error in the PanDA server", "data": None},
    {"success": None, "message": "skipped", "data": {"Command": '{"4711": "NULL"}'}},
    *recorded("event/update_single_event_range"),
]
POINTS = [json.loads(one.reply) for one in IDDS_EXCHANGES if one.reply.startswith(("[", "{")) and one.status == 200]
RELAYED = [good(one) for one in POINTS[:4]] + [[True, POINTS[0]], good({"status": 0, "data": POINTS[0]})]
TOLD = [
    good({"status": 0, "message": "stored"}),
    [True, {"status": 0}],
    {"success": False, "message": "list index out of range"},
]
GRANTS = [
    good({"user_proxy": "e30.e30.x", "StatusCode": 0}),
    good({"public_key": "a", "private_key": "b"}),
    good('{"a": 1}'),
]

PROPFIND = """<?xml version="1.0" encoding="utf-8"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>/d/</D:href>
<D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat></D:response>%s</D:multistatus>"""
MEMBER = """<D:response><D:href>%s</D:href><D:propstat><D:prop><D:resourcetype/>
<D:getcontentlength>%s</D:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"""
LISTING = (PROPFIND % ((MEMBER % ("/d/a%20b", 12)) + (MEMBER % ("http://h/d/c.root", 7)))).encode()
FILE_LISTING = (PROPFIND.replace("/d/<", "/d/f<").replace("<D:collection/>", "") % "").encode()
MARKERS = (
    b"Perf Marker\n Timestamp: 1700000000\n Stripe Index: 0\n Stripe Bytes Transferred: 5\n Total Stripe Count: 1\n"
    b" RemoteConnections: tcp:127.0.0.1:1094\nEnd\nPerf Marker\n Stripe Index: 1\n Stripe Bytes Transferred: 12\nEnd\n"
)
ENDS = [
    *(b"success: Created\n", b"failure: 404 not found\n", b"failed: Status code 507, no space left\n", b"aborted: \n"),
    *(b"error:\n", b"", b"failure: HTTP/1.1 403 Bearer abc\n", b"SUCCESS", b"failure: rejected GET: 5\xff03\n"),
]
CONTENT = b"twelve bytes"
HEADERS = {
    "Content-Length": "12", "ETag": '"9e107d9d372bb6826bd81d3542a419d6"',
    "Digest": "adler32=1f3e04bb,md5=OYUz1IER6fZksfZMsQxLYw==",
    "Repr-Digest": "adler=:A9oBlQ==:", "Last-Modified": "Tue, 03 Jan 2023 10:00:00 GMT",
    "Date": "Wed, 04 Jan 2023 10:00:00 GMT",
    "Accept-Ranges": "bytes", "Content-Range": "bytes 0-11/12", "Location": "/d/g", "Retry-After": "0",
    "Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "identity", "Transfer-Encoding": "chunked",
    "Connection": "keep-alive", "ExceptionMessage": '{"msg": "list index out of range"}',
    "ExceptionClass": "IDDSException",
}  # fmt: skip
ODD_HEADERS = [
    *("", " ", ",", ";", "=", '"', "-1", "0", "9" * 25, "9" * 5000, "1e3", "12, 12", "12,13", "0x0c", "+12", "1_2",
        "x" * 70_000),
    *UNICODE_DIGITS,
    *("bytes 0-11", f"bytes 0-{'9' * 5000}/*", "bytes */12", "bytes 6-11/12", "bytes 11-0/1", "bytes=0-11", "none"),
    *("adler32=", "adler32=zz,md5=:::", "md5=" + "A" * 5000, "adler32=1f3e04bb" * 200, "sha-256=x, adler32=ffffffffff"),
    *("http://[::1", "http://h:99999/", "http://127.0.0.1:1/x", "//", "///", "?", "#", "ftp://h/", "http://\xff/",
        "..", "/d/f"),
    *("http://a@b:c@d/", "http://%00/", "http://127.0.0.1/%0d%0aX: y", "file:///etc/passwd", "javascript:1",
        "/" + "x" * 5000, "/\x00"),
    *("Tue, 99 Foo 99999 99:99:99 GMT", "Tue", "1 Jan", "Jan 1 1 1:1:1:1 x", "Thu, 01 Jan 1970 00:00:00 +9999",
        ", ,", "a b c d e"),
    *("gzip", "deflate", "br", "gzip, gzip", "zstd", "x", "chunked", "identity, chunked", "close", "utf-7",
        "text/\x00"),
    *('"', '"a', 'W/"a"', '"a\x80"', "\x00", "\x1b[2J", "{", '{"msg": ', '{"msg": NaN}', "[" * 3000, '{"a":' * 3000),
]  # fmt: skip
STATUS_LINES = [
    *("HTTP/1.1 200 OK", "HTTP/1.0 200", "HTTP/1.1 99 X", "HTTP/1.1 1000 X", "HTTP/1.1 000 X", "HTTP/1.1 -1 X",
        "HTTP/2 200"),
    *("HTTP/1.1", "HTTP/1.1 ٢٠٠ X", "ICY 200 OK", "", " ", "HTTP/1.1 200 " + "x" * 70_000, "HTTP/1.1 2OO X",
        "HTTP/9.9 200 X"),
    *("HTTP/1.1 200 \x1b]52;c;aGk=\x07", "HTTP/1.1 101 Switching", "HTTP/1.1 103 Early", "HTTP/1.1 204 None",
        "HTTP/1.1 304 X"),
    *("HTTP/1.1 302 Found", "HTTP/1.1 401 X", "HTTP/1.1 407 X", "HTTP/1.1 416 X", "HTTP/1.1 417 X", "HTTP/1.1 599 X",
        "GET / HTTP/1.1"),
]  # fmt: skip
STATUSES_OF_STORAGES = [
    *(200, 200, 200, 201, 202, 203, 204, 206, 207, 299, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405,
        406),
    *(408, 409, 410, 412, 413, 416, 417, 423, 429, 500, 501, 502, 503, 504, 507, 599, 600, 999, 100, 102, 103),
]  # fmt: skip
BOMB = gzip.compress(bytes(64 << 20))
"""64 KiB that are 64 MiB."""
