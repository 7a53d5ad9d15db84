"""The file store over HTTP."""

import http.client
import random
import socket
import zlib
from urllib.parse import urlsplit

import pytest

from tests.contract.embedded_client import running, until

DATA = random.Random(3).randbytes(3 * 2**20 + 17)
PATH = "/store/user/alice/ab/cd/words.txt"


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def raw(client, method, path, **more):
    """A request whose path nobody tidies up."""
    connection = http.client.HTTPConnection(urlsplit(client.url).netloc, timeout=10)
    try:
        connection.request(method, path, **more)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_what_was_put_can_be_got(client):
    assert client.send("PUT", PATH, data=DATA).status_code == 201
    answer = client.send("GET", PATH)
    assert (answer.status_code, answer.content) == (200, DATA)


def test_putting_again_replaces(client):
    client.send("PUT", PATH, data=b"old")
    assert client.send("PUT", PATH, data=b"new!").status_code == 204
    answer = client.send("GET", PATH, headers={"Want-Digest": "adler32"})
    assert (answer.content, answer.headers["Digest"]) == (b"new!", f"adler32={zlib.adler32(b'new!'):08x}")


def test_head_tells_size_and_checksum(client):
    client.send("PUT", PATH, data=DATA)
    answer = client.send("HEAD", PATH, headers={"Want-Digest": "adler32"})
    assert answer.headers["Content-Length"] == str(len(DATA))
    assert answer.headers["Digest"] == f"adler32={zlib.adler32(DATA):08x}"


def test_an_empty_file_is_a_file(client):
    assert client.send("PUT", PATH, data=b"", headers={"Content-Length": "0"}).status_code == 201
    answer = client.send("GET", PATH, headers={"Want-Digest": "adler32,md5"})
    assert (answer.content, answer.headers["Digest"].split(",")[0]) == (b"", "adler32=00000001")


def test_a_file_changed_behind_the_server_has_its_new_checksum(client, tmp_path):
    client.send("PUT", PATH, data=b"old")
    (tmp_path / PATH.lstrip("/")).write_bytes(b"changed")
    answer = client.send("HEAD", PATH, headers={"Want-Digest": "adler32"})
    assert answer.headers["Digest"] == f"adler32={zlib.adler32(b'changed'):08x}"


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, DATA[:10]),
        ("bytes=10-", 206, DATA[10:]),
        ("bytes=-7", 206, DATA[-7:]),
        (f"bytes=5-{len(DATA) + 100}", 206, DATA[5:]),
        ("bytes=0-", 200, DATA),
        ("bytes=9-5", 200, DATA),
        ("bytes=0-1,4-5", 200, DATA),
        (f"bytes={len(DATA)}-", 416, None),
    ],
)
def test_a_range_brings_its_part(client, asked, status, part):
    client.send("PUT", PATH, data=DATA)
    answer = client.send("GET", PATH, headers={"Range": asked})
    assert answer.status_code == status
    assert part is None or answer.content == part


def test_a_deleted_file_is_gone(client):
    client.send("PUT", PATH, data=b"x")
    assert [client.send("DELETE", PATH).status_code for _ in range(2)] == [204, 404]
    assert client.send("GET", PATH).status_code == 404


def test_a_body_that_ends_early_leaves_nothing(client, tmp_path):
    host, _, port = urlsplit(client.url).netloc.partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PUT {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        connection.sendall(head.encode() + DATA[:100_000])
    until(lambda: [one["status"] for one in client.requests() if one["method"] == "PUT"] == [400])
    assert client.send("GET", PATH).status_code == 404
    assert list((tmp_path / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "/store/../secret",
        "/store/a/../../secret",
        "/store/%2e%2e/secret",
        "/store/..%2fsecret",
        "/store//etc/passwd",
        "/store/a//b",
        "/store/a/./b",
        "/store/a%00b",
        "/store/a/",
        "/store/" + "n" * 256,
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_path_that_leaves_the_store_is_refused(client, tmp_path, method, path):
    assert raw(client, method, path, body=b"x" if method == "PUT" else None) == 400
    assert not (tmp_path / "secret").exists()


def test_a_link_is_not_followed(client, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store" / "file").symlink_to(tmp_path / "secret")
    (tmp_path / "store" / "dir").symlink_to(tmp_path)
    assert client.send("GET", "/store/file").status_code == 403
    assert client.send("GET", "/store/dir/secret").status_code in (403, 409)
    assert client.send("PUT", "/store/dir/new", data=b"x").status_code in (403, 409)
    assert not (tmp_path / "new").exists()


def test_a_directory_is_no_file(client):
    client.send("PUT", PATH, data=b"x")
    assert client.send("GET", "/store/user/alice").status_code == 404
    assert client.send("PUT", "/store/user/alice", data=b"x").status_code == 409
    assert client.send("PUT", f"{PATH}/below", data=b"x").status_code == 409


def test_a_refused_upload_leaves_the_connection_usable(client):
    assert client.send("PUT", "/store/a%00b", data=DATA).status_code == 400
    assert client.send("PUT", PATH, data=DATA).status_code == 201


def test_uploads_are_recorded_without_their_bytes(client):
    client.send("PUT", "/store/local/7/ab/cd/x", data=b"bytes")
    (seen,) = client.requests(7)
    assert (seen["method"], seen["status"], seen["body"]) == ("PUT", 201, "")
