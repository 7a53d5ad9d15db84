"""`pilot serve` attacked by whoever reaches it: refused, cheap, and others are answered (issue 13, show 6).

A second for an answer and 64 MiB of memory are promised limits, so they are asserted.
"""

import contextlib
import gzip
import json
import random
import socket
import stat
import threading
from pathlib import Path

import pytest

from pilot.embedded.app import application
from pilot.embedded.server import EmbeddedServer
from tests.hostile.served import ALIVE, PATIENCE_S, Answer, Target, received
from tests.lab import until

pytestmark = pytest.mark.alone  # an answer within a second is measured
MOST_MIB = 64
HALF_SENT = 60
UPDATE = "/api/v1/pilot/update_job"
JSON = {"Content_Type": "application/json"}
JOB = b'{"definition": {"command": "true"}}'


def ended(target):
    """At the end of every attack: it lives, was never large, and had nothing to complain about."""
    assert target.is_prompt()
    assert target.grown_mib < MOST_MIB
    target.end()
    assert target.errors.read_text() == ""


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A server for all attacks that are over with their answer."""
    target = Target(tmp_path_factory.mktemp("plain"))
    try:
        yield target
        ended(target)
    finally:
        target.end()


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    target = Target(tmp_path_factory.mktemp("secure"), "--tls")
    try:
        yield target
        ended(target)
    finally:
        target.end()


@pytest.fixture
def fresh(tmp_path):
    """A server of a test's own: its memory is counted for this attack alone."""
    target = Target(tmp_path)
    try:
        yield target
        ended(target)
    finally:
        target.end()


# --- the local token --------------------------------------------------------------------------------------------


def ours(tmp_path):
    """Every route under /local/ with its methods, from the application itself."""
    server = EmbeddedServer(tmp_path)
    try:
        server._open()
        rules = list(application(server._opened).url_map.iter_rules())
    finally:
        server.stop()
    values = {"job_id": 1, "task": 1, "point": 1, "name": "LOCAL"}
    for rule in rules:
        if rule.rule.startswith("/local"):
            path = rule.rule
            for argument in rule.arguments:
                for form in (f"<int:{argument}>", f"<{argument}>"):
                    path = path.replace(form, str(values[argument]))
            yield from ((method, path) for method in sorted(rule.methods - {"OPTIONS"}))


def test_every_route_of_our_own_wants_the_token(target, tmp_path):
    routes = list(ours(tmp_path))
    assert ("POST", "/local/tokens") in routes
    assert ("DELETE", "/local/faults") in routes
    for method, path in routes:
        assert target.ask(method, path, JOB, **JSON).status == 401, (method, path)
        for wrong in ("x", target.token[:-1], target.token + "x", "", "\xff"):
            answer = target.ask(method, path, JOB, **JSON, Authorization=f"Bearer {wrong}")
            assert answer.status == 403, (method, path, wrong)
    assert target.own_call("GET", "/local/jobs").status == 200


@pytest.mark.parametrize(
    "path",
    ["/local", "/local/", "/local/nothing", "/%6cocal/jobs", "///local/jobs", "/local/%2e%2e/store/x", "/local/x y"],
)
def test_no_spelling_of_the_path_leads_past_the_token(target, path):
    assert target.send(f"GET {path} HTTP/1.1\r\nHost: {target.own}\r\nConnection: close\r\n\r\n".encode()).status in (
        400,
        401,
    )


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Basic {0}", 401),
        ("{0}", 401),
        ("Bearer", 403),
        ("Bearer {0} {0}", 403),
        ("Bearer {0},", 403),
        ("bearer  {0}", 200),
    ],
)
def test_the_token_counts_as_a_bearer_token_only(target, authorization, status):
    assert target.get("/local/jobs", Authorization=authorization.format(target.token)).status == status


def test_a_token_in_the_query_or_sent_twice_is_none(target):
    assert target.get(f"/local/jobs?access_token={target.token}").status == 401
    line = f"Authorization: Bearer {target.token}\r\n"
    raw = f"GET /local/jobs HTTP/1.1\r\nHost: {target.own}\r\n{line}{line}\r\n"
    assert target.send(raw.encode()).status == 400


def test_the_tokens_file_is_its_owners_and_replaces_what_was_planted(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "victim").write_text("precious")
    for name in ("local_token", "local_token.new"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "victim")
    target = Target(tmp_path)
    try:
        status = (target.data / "local_token").lstat()
        assert stat.S_ISREG(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert (tmp_path / "victim").read_text() == "precious"
        assert target.own_call("GET", "/local/jobs").status == 200
        ended(target)
    finally:
        target.end()


def test_each_start_makes_another_token_and_no_file_else_has_it(tmp_path):
    tokens = []
    for _ in range(2):
        target = Target(tmp_path)
        try:
            tokens.append(target.token)
            assert target.own_call("POST", "/local/jobs", JOB).status == 200
            assert target.own_call("POST", "/local/jobs", b"[").status == 400
            told = target.own_call("GET", "/local/requests").raw
            assert tokens[-1].encode() not in told
            arguments = Path(f"/proc/{target.process.pid}/cmdline").read_bytes()
            assert tokens[-1].encode() not in arguments
            ended(target)
        finally:
            target.end()
    assert tokens[0] != tokens[1]
    homes = [path.name for path in tmp_path.rglob("*") if path.is_file() and tokens[1].encode() in path.read_bytes()]
    assert homes == ["local_token"]


def test_an_old_token_is_worth_nothing_after_a_restart(tmp_path):
    first = Target(tmp_path)
    before = first.token
    first.end()
    second = Target(tmp_path)
    try:
        assert second.get("/local/jobs", Authorization=f"Bearer {before}").status == 403
    finally:
        second.end()


# --- hosts and origins ------------------------------------------------------------------------------------------

HOSTS = [
    ("{host}:{port}", 200),
    ("localhost:{port}", 200),
    ("LocalHost:{port}", 200),
    ("localhost.:{port}", 200),
    ("[::1]:{port}", 200),
    ("[0:0:0:0:0:0:0:1]:{port}", 200),
    ("evil.example:{port}", 403),
    ("evil.example", 403),
    ("localhost.evil.example:{port}", 403),
    ("evil.example.localhost:{port}", 403),
    ("127.0.0.1.nip.io:{port}", 403),
    ("{host}", 403),
    ("{host}:1", 403),
    ("{host}:{port}:{port}", 403),
    ("127.1:{port}", 403),
    ("2130706433:{port}", 403),
    ("0.0.0.0:{port}", 403),
    ("[::ffff:127.0.0.1]:{port}", 403),
    ("[::1%lo]:{port}", 403),
    ("[::1:{port}", 403),
    ("user@{host}:{port}", 403),
    ("{host}:{port}, evil.example", 403),
    ("{host}:{port}/", 403),
    ("http://{host}:{port}", 403),
    ("{host}:99999999", 403),
    ("l\xf6calhost:{port}", 403),
    ("", 403),
]


@pytest.mark.parametrize(("host", "status"), HOSTS, ids=[host for host, _ in HOSTS])
def test_only_its_own_names_are_answered(target, host, status):
    host = host.format(host=target.host, port=target.port)
    raw = f"GET {ALIVE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert target.send(raw.encode("latin-1")).status == status
    raw = (
        f"GET /local/jobs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {target.token}\r\n\r\n"
    )
    assert target.send(raw.encode("latin-1")).status == status


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_request_that_names_no_host_is_refused(target, version):
    assert target.send(f"GET {ALIVE} HTTP/{version}\r\nConnection: close\r\n\r\n".encode()).status == 400


def test_two_hosts_or_a_whole_url_are_refused(target):
    own = f"Host: {target.own}\r\n"
    assert target.send(f"GET {ALIVE} HTTP/1.1\r\n{own}Host: evil.example\r\n\r\n".encode()).status == 400
    assert target.send(f"GET {ALIVE} HTTP/1.1\r\n{own}{own}\r\n".encode()).status == 400
    for whole in (f"http://evil.example{ALIVE}", target.url + ALIVE, f"//evil.example{ALIVE}"):
        assert target.send(f"GET {whole} HTTP/1.1\r\n{own}\r\n".encode()).status == 400


@pytest.mark.parametrize(
    ("origin", "status", "own"),
    [
        ("http://{host}:{port}", 200, 200),
        ("http://localhost:{port}", 200, 200),
        ("http://evil.example", 403, 403),
        ("http://{host}:1", 403, 403),
        ("http://{host}", 403, 403),
        ("https://{host}:{port}", 403, 403),
        ("http://{host}:{port}.evil.example", 403, 403),
        ("null", 403, 403),
        ("NULL", 403, 403),
        ("file://", 403, 403),
        ("moz-extension://8f2b", 403, 403),
        ("wlcg.production", 200, 403),  # PanDA's own meaning: who calls, for which organisation
    ],
)
def test_pages_of_other_origins_cannot_call_it(target, origin, status, own):
    origin = origin.format(host=target.host, port=target.port)
    assert target.get(ALIVE, Origin=origin).status == status
    assert target.own_call("GET", "/local/jobs", Origin=origin).status == own
    assert target.ask("PUT", "/store/x", b"x", Origin=origin).status in ((201, 204) if status == 200 else (403,))


# --- bodies -----------------------------------------------------------------------------------------------------


def bombs():
    one = gzip.compress(b"0" * 1_000_000, mtime=0)
    yield "a large one", gzip.compress(b"0" * 100_000_000, mtime=0)
    yield "many members", one * 100
    yield "in a bomb", gzip.compress(gzip.compress(b"0" * 100_000_000, mtime=0), mtime=0)
    yield "valid JSON", gzip.compress(b"[" + b"0," * 20_000_000 + b"0]", mtime=0)
    yield "just below the limit, of small objects", gzip.compress(b"[" + b"{}," * 1_390_000 + b"{}]", mtime=0)
    yield (
        "just below the limit, of wide letters",
        gzip.compress(json.dumps({"a": "\U0001f600" + "a" * 4_100_000}, ensure_ascii=False).encode(), mtime=0),
    )


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "gzip, gzip", "deflate", "br", "x-gzip"])
def test_a_bomb_is_refused_and_costs_no_memory(fresh, encoding):
    for _, bomb in bombs():
        for path in (UPDATE, "/api/v1/nothing", "/idds/hpo/1/2/3/4"):
            fresh.ask("POST", path, bomb, **JSON, Content_Encoding=encoding)
        fresh.own_call("POST", "/local/jobs", bomb, Content_Encoding=encoding)
    large = fresh.ask("POST", UPDATE, dict(bombs())["a large one"], **JSON, Content_Encoding=encoding)
    assert large.status == (413 if encoding.lower() == "gzip" else 415)
    assert fresh.grown_mib < MOST_MIB


def test_a_bomb_is_not_unpacked_beyond_the_limit(fresh):
    """Four gigabytes would take a core for longer than this waits."""
    bomb = gzip.compress(b"0" * 100_000_000, mtime=0) * 40
    assert fresh.ask("POST", UPDATE, bomb, **JSON, Content_Encoding="gzip").status == 413


def test_many_bombs_at_once_cost_no_more_than_one(fresh):
    kinds = [bomb for _, bomb in bombs()]
    answers = together(24, lambda n: fresh.ask("POST", UPDATE, kinds[n % len(kinds)], **JSON, Content_Encoding="gzip"))
    assert {one.status for one in answers} <= {200, 400, 413, 500}  # 500: what is no UTF-8 crashes the live server too
    assert fresh.grown_mib < MOST_MIB


def test_large_bodies_without_compression_are_refused_or_wait_for_each_other(fresh):
    wide = json.dumps({"a": "\U0001f600" + "a" * 4_100_000}, ensure_ascii=False).encode()
    answers = together(12, lambda _: fresh.ask("POST", UPDATE, wide, **JSON))
    assert {one.status for one in answers} == {200}
    assert fresh.ask("POST", UPDATE, b"[" + b" " * 5_000_000 + b"]", **JSON).status == 413
    assert fresh.grown_mib < MOST_MIB


@pytest.mark.parametrize("path", ["/api/v1/file_server/upload_cache_file", "/server/panda/put_checkpoint", UPDATE])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "no/such"])
def test_only_files_of_a_form_may_be_large(fresh, path, kind):
    assert fresh.ask("POST", path, b"[" + b" " * 100_000_000 + b"]", Content_Type=kind).status == 413


def test_a_form_of_many_or_large_fields_costs_no_memory(fresh):
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    multipart = {"Content_Type": "multipart/form-data; boundary=x"}
    for path in ("/api/v1/file_server/upload_cache_file", UPDATE):
        large = part % (b"file", b"y" * 100_000_000) + b"--x--\r\n"
        many = b"".join(part % (b"f%d" % n, b"y") for n in range(30_000)) + b"--x--\r\n"
        for body in (
            large,
            many,
            b"--x\r\n" + b"A: b\r\n" * 1_000_000,
            b"--x" + b"\r\n" * 1_000_000,
            b"y" * 50_000_000,
        ):
            assert fresh.ask("POST", path, body, **multipart).status in (200, 413), body[:60]
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    for body in (b"a&" * 1_000_000, b"a=b&" * 1_000_000, b"a=" + b"%41" * 1_000_000):
        assert fresh.ask("POST", UPDATE, body, **form).status in (200, 400, 413)


def together(count, work):
    """What as many threads have found."""
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(work(n))) for n in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == count
    return found


NODE = {**dict.fromkeys(("site", "panda_queue", "host_name", "cpu_model"), "x"), "target_architecture": 1}
DEEP = "[" * 50_000 + "]" * 50_000
KEYS = '{"a":' * 50_000 + "1" + "}" * 50_000
MEDIUM = "[" * 900 + "]" * 900
OPEN = "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, KEYS, MEDIUM, OPEN], ids=["arrays", "objects", "not so deep", "never closed"])
def test_deep_json_is_400_wherever_it_is_read(target, text):
    for body in (text, f'{{"definition": {text}}}', f'{{"job_id": 1, "job_status": "running", "meta_data": {text}}}'):
        for path in (UPDATE, "/api/v1/pilot/acquire_jobs", "/api/v1/nothing", "/nothing"):
            assert target.ask("POST", path, body.encode(), **JSON).status == 400, (path, body[:60])
        for path in ("jobs", "studies", "faults", "tokens", "queues/X", "studies/1/points/1/progress"):
            assert target.own_call("POST", f"/local/{path}", body.encode()).status == 400, (path, body[:60])


@pytest.mark.parametrize("text", [DEEP, KEYS, MEDIUM, OPEN], ids=["arrays", "objects", "not so deep", "never closed"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("idds/relay_idds_command", {"command_name": "get_hyperparameters", "args": 1, "kwargs": "{}"}),
        ("idds/relay_idds_command", {"command_name": "get_hyperparameters", "args": "[]", "kwargs": 1}),
        ("event/update_event_ranges", {"event_ranges": 1, "version": 0}),
        ("pilot/update_worker_node", NODE),
    ],
)
def test_deep_json_in_a_field_is_no_500(target, name, fields, text):
    body = {key: text if value == 1 else value for key, value in fields.items()}
    assert target.ask("POST", f"/api/v1/{name}", json.dumps(body).encode(), **JSON).status in (200, 400)


def test_deep_json_in_a_query_is_no_500(target):
    query = "%5B" * 8_000
    for path in ("/api/v1/event/get_event_range_statuses?job_task_ids=", "/api/v1/pilot/get_job_status?job_ids="):
        assert target.get(path + query).status in (200, 400)


def test_a_deep_report_of_a_job_harms_neither_its_verdict_nor_its_status(target):
    job = json.loads(target.own_call("POST", "/local/jobs", JOB).body)["id"]
    target.ask("POST", "/api/v1/pilot/acquire_jobs", b'{"site_name": "LOCAL"}', **JSON)
    final = {"job_id": job, "job_status": "finished", "job_output_report": MEDIUM, "meta_data": DEEP}
    assert target.ask("POST", UPDATE, json.dumps(final).encode(), **JSON).status == 200
    until(lambda: json.loads(target.own_call("GET", f"/local/jobs/{job}").body)["state"] == "failed", what="a verdict")


@pytest.mark.parametrize(
    "body",
    [
        b'{"job_id": ' + b"9" * 5000 + b', "job_status": "running"}',
        b'{"job_id": ' + b"9" * 400 + b', "job_status": "running"}',
        b'{"job_id": 1e999, "job_status": "running"}',
        b'{"job_id": NaN, "job_status": "running"}',
        b'{"job_id": 1, "job_status": "\\ud800"}',
        b'{"job_id": 1, "job_status": "running", "stdout": "\\udcff"}',
        b'{"\\ud800": 1}',
        b'{"job_id": 1, "job_status": "run\\u0000ning"}',
        b"\xff\xfe",
        b"null",
        b"[" + b"[]," * 200_000 + b"1]",
        b'{"a":' + b"1," * 150_000 + b"}",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_odd_values_leave_no_traceback(target, body):
    for name in ("pilot/update_job", "pilot/acquire_jobs", "job/kill", "event/acquire_event_ranges"):
        target.ask("POST", f"/api/v1/{name}", body, **JSON)
    for path in ("jobs", "studies", "faults", "tokens"):
        assert target.own_call("POST", f"/local/{path}", body).status == 400
    assert target.errors.read_text() == ""


@pytest.mark.parametrize("value", [1, True, 1.5, "x\0y", [], [1], {"a": 1}, "../x", "9" * 5000, None])
def test_odd_fields_of_our_own_calls_leave_no_traceback(target, value):
    for name in ("inputs", "archive", "queue", "study", "definition", "rules", "vo", "lifetime_s", "match"):
        for path in ("jobs", "studies", "faults", "tokens"):
            body = json.dumps({name: value}).encode()
            assert target.own_call("POST", f"/local/{path}", body).status in (200, 400), (path, name)
    for query in ("get_proxy?dn=", "get_key_pair?private_key_name=x&public_key_name=", "get_access_token?client_name="):
        for text in ("y" * 3000, "a%00b", "%ff", ".."):
            assert target.get(f"/api/v1/creds/{query}{text}", Accept="application/json").status == 200
    assert target.errors.read_text() == ""


LENGTHS = [
    ("Content-Length: -5", 400),
    ("Content-Length: +5", 400),
    ("Content-Length: 5_0", 400),
    ("Content-Length: 0x5", 400),
    ("Content-Length: 5, 5", 400),
    ("Content-Length: \xb2", 400),
    ("Content-Length: 99999999999999999999999", 400),
    ("Content-Length: 5\r\nContent-Length: 6", 400),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    ("Content-Length : 5", 400),
    ("Content-Length: 5\r\n folded: 1", 400),
    ("Content-Length: 999999999999", 413),
    ("Transfer-Encoding: chunked", 411),
    ("Transfer-Encoding: gzip, chunked", 501),
    ("Content_Length: 5", 500),  # passed over; an empty body crashes the live server too
]


@pytest.mark.parametrize(("header", "status"), LENGTHS, ids=[header for header, _ in LENGTHS])
def test_lengths_that_cannot_be_are_refused(target, header, status):
    raw = f"POST {UPDATE} HTTP/1.1\r\nHost: {target.own}\r\nContent-Type: application/json\r\n{header}\r\n\r\nhello"
    assert target.send(raw.encode("latin-1"), half_closed=True).status == status


@pytest.mark.parametrize("length", [6, 100_000, 3_000_000])
def test_a_body_that_ends_before_its_length_is_400(target, length):
    told = head(target, "POST", UPDATE, length, "Content-Type: application/json")
    assert target.send(told + b"{}   ", half_closed=True).status == 400


def test_what_follows_a_refused_body_is_no_request(target):
    """A body that was not read must not be taken for the next request (request smuggling)."""
    inner = f"GET {ALIVE} HTTP/1.1\r\nHost: {target.own}\r\n\r\n".encode()
    for header, body in (
        ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)),
        (f"Content-Length: {len(inner)}", inner),
        ("Content-Encoding: br\r\nContent-Length: %d" % len(inner), inner),
        ("Content-Length: 999999999", inner),
    ):
        raw = f"POST /local/jobs HTTP/1.1\r\nHost: {target.own}\r\n{header}\r\n\r\n".encode() + body
        assert target.send(raw, half_closed=True).raw.count(b"HTTP/1.1 ") == 1, header


def test_chunks_without_end_are_refused_at_once(fresh):
    def endless(connection):
        head = f"POST {UPDATE} HTTP/1.1\r\nHost: {fresh.own}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(fresh.connect()) for _ in range(HALF_SENT)]
        threads = [threading.Thread(target=endless, args=(one,)) for one in connections]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    huge = f"POST {UPDATE} HTTP/1.1\r\nHost: {fresh.own}\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFF\r\n"
    assert fresh.send(huge.encode() + b"x" * 100_000).status == 411


# --- heads ------------------------------------------------------------------------------------------------------


def test_two_megabytes_of_headers_are_refused(fresh):
    first = f"GET {ALIVE} HTTP/1.1\r\nHost: {fresh.own}\r\n".encode()
    for head in (
        first + b"X: " + b"y" * 2**21 + b"\r\n\r\n",
        first + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 2000) for n in range(1000)) + b"\r\n",
        first + b"X: " + b"y" * 2**21,
        b"GET /" + b"a" * 2**21 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?" + b"a=b&" * 2**19 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G" * 2**21,
    ):
        assert fresh.send(head).status in (400, 413, 414), head[:40]
    assert fresh.send(first + b"a:\r\n" * 5000 + b"\r\n").status == 400
    answers = together(30, lambda _: fresh.send(first + b"X: " + b"y" * 2**21 + b"\r\n\r\n"))
    assert {one.status for one in answers} == {413}
    assert fresh.grown_mib < MOST_MIB


@pytest.mark.parametrize(
    "path",
    [
        "/store/../local_token",
        "/store/%2e%2e/local_token",
        "/store/..%2flocal_token",
        "/store/..%252flocal_token",
        "/store/%2e%2e%2flocal_token",
        "/store/x/../../local_token",
        "/store//etc/passwd",
        "/store/a%00b",
        "/store/%ff",
        "/store/%c0%ae%c0%ae/local_token",
        "/store/a%0ab",
        "/store/" + "a" * 5000,
        "/cache/..",
        "/cache/%2e%2e%2flocal_token",
        "/cache/..%5clocal_token",
        "/cache/%00",
        "/cache/" + "%ff" * 100,
        "/cache/schedconfig/..%2f..%2flocal_token.all.json",
        "/local_token",
        "/../local_token",
        "/api/v1/pilot/%ff",
        "/api/v1/%00/update_job",
        "/idds/%ff",
        "/idds/hpo/%00/1/1/1/1",
        "/local/jobs/%ff",
        "/local/jobs/1%00",
        "/local/queues/%2e%2e",
        "/\xff",
        "/;",
        "/[",
        "/\\..\\local_token",
        "/a#b",
    ],
)
def test_odd_paths_are_refused_without_a_traceback(target, path):
    for method in ("GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "TRACE"):
        lines = f"{method} {path} HTTP/1.1\r\nHost: {target.own}\r\nConnection: close\r\nContent-Length: 0\r\n"
        answer = target.send(f"{lines}Authorization: Bearer {target.token}\r\n\r\n".encode("latin-1"))
        assert 400 <= answer.status < 500, (method, answer)
        assert target.token.encode() not in answer.raw
    assert target.errors.read_text() == ""


def test_noise_is_answered_or_dropped(target):
    dice = random.Random(13)
    for _ in range(300):
        words = [
            b"GET",
            b"POST",
            b" ",
            b"/",
            b"/local/jobs",
            b"/store/",
            b"HTTP/1.1",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b":",
            b"%00",
        ]
        words += [
            f"Host: {target.own}".encode(),
            b"Content-Length: 3",
            b"Expect: 100-continue",
            dice.randbytes(5),
            b"\0",
        ]
        raw = b"".join(dice.choices(words, k=dice.randrange(1, 30)))
        answer = target.send(raw, half_closed=True)
        assert answer.status not in (500, 501), (raw, answer)
    assert target.errors.read_text() == ""


# --- half of a request ------------------------------------------------------------------------------------------


def head(target, method, path, length, *more):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.own}", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


HALVES = {
    "nothing": lambda _: b"",
    "one letter": lambda _: b"G",
    "no end of the headers": lambda target: head(target, "GET", ALIVE, 0)[:-2],
    "no body": lambda target: head(target, "POST", UPDATE, 100),
    "half of a small body": lambda target: head(target, "POST", UPDATE, 10_000) + b"{" * 5_000,
    "half of a large body": lambda target: head(target, "POST", UPDATE, 3_000_000) + b"{" * 100_000,
    "a packed body": lambda target: head(target, "POST", UPDATE, 1000, "Content-Encoding: gzip") + b"\x1f\x8b",
    "half of a file": lambda target: head(target, "PUT", "/store/half", 10**9) + b"x" * 100_000,
    "half of a file, asked for its continuation": lambda target: head(
        target, "PUT", "/store/half", 10**9, "Expect: 100-continue"
    ),
    "half of a sandbox": lambda target: (
        head(
            target,
            "POST",
            "/api/v1/file_server/upload_cache_file",
            10**6,
            "Content-Type: multipart/form-data; boundary=x",
        )
        + b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"
    ),
    "a second request": lambda target: head(target, "GET", ALIVE, 0) + head(target, "POST", UPDATE, 100),
}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("count", [HALF_SENT, 250])
def test_half_sent_requests_keep_nobody_waiting(fresh, half, count):
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(fresh.connect()) for _ in range(count)]
        for one in connections:
            one.sendall(HALVES[half](fresh))
        for _ in range(10):
            assert fresh.is_prompt()
        assert fresh.own_call("POST", "/local/jobs", JOB).status == 200
        assert fresh.grown_mib < MOST_MIB


def test_half_sent_requests_are_ended_after_their_time(target):
    """The limit for headers is 10 s; these two wait at the same time."""
    began = [target.connect(), target.connect()]
    try:
        began[0].sendall(b"GET / HTTP/1.1\r\nHost:")
        began[1].sendall(head(target, "POST", UPDATE, 100))
        for one in began:
            one.settimeout(3 * PATIENCE_S)
            assert Answer(received(one)).status == 408
    finally:
        for one in began:
            one.close()


def test_a_trickle_does_not_extend_the_time(target):
    with target.connect() as connection:
        connection.settimeout(0.2)
        answer, letters = b"", iter(f"GET {ALIVE} HTTP/1.1\r\nX: " + "y" * 1000)

        def ended():
            nonlocal answer
            with contextlib.suppress(TimeoutError):
                connection.sendall(next(letters).encode())
                answer += connection.recv(1000)
                return bool(answer)
            return False

        until(ended, 3 * PATIENCE_S, "the end of the trickle")
    assert Answer(answer).status == 408


def test_handshakes_that_never_end_keep_nobody_waiting(secure):
    with contextlib.ExitStack() as stack:
        for number in range(HALF_SENT):
            connection = stack.enter_context(socket.create_connection((secure.host, secure.port)))
            connection.sendall((b"", b"\x16\x03\x01\x02\x00\x01", b"\x16")[number % 3])
        for _ in range(10):
            assert secure.is_prompt()


def test_half_sent_requests_over_tls_keep_nobody_waiting(secure):
    with contextlib.ExitStack() as stack:
        for number in range(HALF_SENT):
            connection = stack.enter_context(secure.connect())
            connection.sendall(list(HALVES.values())[number % len(HALVES)](secure))
        for _ in range(10):
            assert secure.is_prompt()


def test_plain_http_and_noise_at_the_tls_port_are_told_or_dropped(secure):
    for raw in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"x" * 1000, b"\0" * 1000):
        with socket.create_connection((secure.host, secure.port), timeout=PATIENCE_S) as connection:
            connection.sendall(raw)
            assert Answer(received(connection)).status in (0, 400)
    assert secure.errors.read_text() == ""


def test_clients_that_never_read_keep_nobody_waiting(fresh):
    content = b"x" * 20_000_000
    assert fresh.ask("PUT", "/store/large", content).status == 201
    with contextlib.ExitStack() as stack:
        for _ in range(HALF_SENT):
            connection = stack.enter_context(fresh.connect())
            connection.sendall(head(fresh, "GET", "/store/large", 0))
        for _ in range(10):
            assert fresh.is_prompt()
        assert fresh.grown_mib < MOST_MIB


def test_more_connections_than_there_is_room_for_make_room_for_new_ones(fresh):
    with contextlib.ExitStack() as stack:
        for _ in range(1200):
            stack.enter_context(fresh.connect())
        for _ in range(5):
            assert fresh.is_prompt()


# --- what must still work ---------------------------------------------------------------------------------------


def test_a_file_may_take_as_long_as_its_bytes_flow(fresh):
    """Longer than every limit for a request, in pieces; nothing of it is kept in memory."""
    size, piece = 200_000_000, b"z" * 1_000_000
    with fresh.connect() as connection:
        connection.settimeout(6 * PATIENCE_S)
        connection.sendall(head(fresh, "PUT", "/store/a/large", size, "Connection: close"))
        for _ in range(size // len(piece)):
            connection.sendall(piece)
        assert Answer(received(connection)).status == 201
    assert len(fresh.get("/store/a/large", Range="bytes=0-9").body) == 10
    assert (fresh.data / "store" / "a" / "large").stat().st_size == size
    assert fresh.grown_mib < MOST_MIB


def test_requests_that_come_together_are_answered_in_order(target):
    first, last = head(target, "GET", ALIVE, 0), head(target, "GET", "/nothing", 0, "Connection: close")
    body = b'{"site_name": "NOWHERE"}'
    middle = head(target, "POST", "/api/v1/pilot/acquire_jobs", len(body), "Content-Type: application/json") + body
    answers = target.send(first + middle + last).raw.split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in answers] == [b"200", b"200", b"404"]
