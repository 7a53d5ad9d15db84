"""The server as a whole: durability, exclusivity, clients that leave, start and stop."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
import trustme

from pilot.embedded.server import EmbeddedServer
from pilot.values.errors import UsageError
from tests.contract.embedded_client import Client, running, until
from tests.local import local_token


@contextmanager
def process(data):
    """A server as a process of its own, and a client of it."""
    code = (
        "import sys, pathlib; from pilot.embedded.server import serve_forever; serve_forever(pathlib.Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(data)], stdout=subprocess.PIPE, text=True) as child:
        word, url = child.stdout.readline().split()
        assert word == "ready"
        client = Client(url, local_token(data))
        try:
            yield child, client
        finally:
            client.session.close()
            child.kill()


def test_jobs_and_requests_survive_a_kill(tmp_path):
    with process(tmp_path) as (child, client):
        job, done = client.submit(name="kept"), client.submit()
        client.acquire()
        client.finish(job)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
    with running(tmp_path) as client:
        assert client.ended(job) == "finished"
        assert client.state(done) == "activated"
        calls = [one["path"].rpartition("/")[2] for one in client.requests(job)]
        assert calls[:3] == ["jobs", "acquire_jobs", "update_job"]
        assert client.submit() == done + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_status_0(tmp_path, number):
    with process(tmp_path) as (child, client):
        client.submit()
        child.send_signal(number)
        rest, _ = child.communicate(timeout=10)
    assert (child.returncode, rest) == (0, "")


def test_no_job_is_handed_out_twice(tmp_path):
    with running(tmp_path) as client:
        submitted = {client.submit() for _ in range(40)}
        got = []
        threads = [threading.Thread(target=take_all, args=(client.url, got)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == 40
    assert set(got) == submitted


def take_all(url, got):
    client = Client(url)
    while jobs := client.acquire():
        got.extend(job["PandaID"] for job in jobs)
    client.session.close()


def test_a_client_that_left_gets_no_job(tmp_path):
    with running(tmp_path) as client:
        job = client.submit()
        client.faults({"match": "acquire_jobs", "do": "delay", "seconds": 1.0})
        host, _, port = urlsplit(client.url).netloc.partition(":")
        body = json.dumps({"site_name": "LOCAL"}).encode()
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST /api/v1/pilot/acquire_jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            )
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: any(one["path"].endswith("acquire_jobs") for one in client.requests()))
        until(lambda: [one["status"] for one in client.requests() if one["fault"]] == [200])
        assert client.state(job) == "activated"
        assert [one["PandaID"] for one in client.acquire()] == [job]


def test_requests_are_recorded_in_order_with_body_and_answer(tmp_path):
    with running(tmp_path) as client:
        job = client.running()
        client.finish(job)
        seen = client.requests(job)
    assert [one["seq"] for one in seen] == sorted(one["seq"] for one in seen)
    states = [json.loads(one["body"])["job_status"] for one in seen if one["path"].endswith("update_job")]
    assert states == ["starting", "running", "finished"]
    assert json.loads(seen[-1]["answer"])["data"] == {"StatusCode": 0, "command": "NULL"}


def test_a_taken_port_is_told_in_one_line(tmp_path):
    with running(tmp_path / "one") as client:
        port = urlsplit(client.url).port
        with pytest.raises(UsageError, match=rf"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            EmbeddedServer(tmp_path / "two", port=port).start()


def test_a_directory_that_cannot_be_had_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        EmbeddedServer(tmp_path / "file").start()
    with running(tmp_path / "data"), pytest.raises(UsageError, match="another server uses it"):
        EmbeddedServer(tmp_path / "data").start()


def test_a_chunked_body_is_refused(tmp_path):
    with running(tmp_path) as client:
        answer = client.send("POST", "/api/v1/pilot/acquire_jobs", data=iter([b"{}"]))
        assert answer.status_code == 411
        assert client.acquire() == []


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ({"Content-Encoding": "gzip"}, b"{}", "Not a gzipped file"),
        ({}, gzip.compress(b"{}", mtime=0), "'utf-8' codec can't decode"),
        ({}, b'{"max_rss": "a", "job_id": 1, "job_status": "running"}', "'types.UnionType' object has no attribute"),
    ],
)
def test_what_crashes_the_live_server_crashes_here_too(tmp_path, headers, body, text):
    with running(tmp_path) as client:
        headers = {"Content-Type": "application/json", **headers}
        answer = client.send("POST", "/api/v1/pilot/update_job", data=body, headers=headers)
    assert answer.status_code == 500
    assert answer.text.startswith(text)


@pytest.mark.parametrize("path", ["/api/v1/pilot/update_job/", "/api/v1/pilot", "/api/v1/pilot//update_job"])
def test_other_paths_are_forbidden(tmp_path, path):
    with running(tmp_path) as client:
        answer = client.send("POST", path, json={})
    assert answer.status_code == 403
    assert answer.text.startswith("ERROR : method ")


def test_the_server_speaks_tls(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    with ExitStack() as stack:
        pem = issued.private_key_and_cert_chain_pem
        key = stack.enter_context(pem.tempfile())
        ca = stack.enter_context(authority.cert_pem.tempfile())
        client = stack.enter_context(running(tmp_path, certificate=(key, key)))
        client.session.verify = ca
        job = client.submit()
        assert client.url.startswith("https://")
        assert [one["PandaID"] for one in client.acquire()] == [job]


def test_requests_share_a_connection(tmp_path):
    with running(tmp_path) as client:
        for _ in range(5):
            client.call("pilot/acquire_jobs", site_name="LOCAL")
        adapter = client.session.get_adapter(client.url)
        (pool,) = (adapter.poolmanager.pools[key] for key in adapter.poolmanager.pools.keys())  # noqa: SIM118 - it is no dict
        assert (pool.num_connections, pool.num_requests) == (1, 5)
