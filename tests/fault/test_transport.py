"""The HTTP of the reporter against servers that misbehave: each limit of a call is obeyed."""

import gzip
import io
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme

from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Limits, Transport
from pilot.panda.checkpoints import CheckpointClient
from pilot.panda.wire import Wire
from pilot.values.errors import ServerGarbled, ServerUnavailable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class RawServer:
    """Answers each connection by a function of its socket, in a thread."""

    def __init__(self, answer):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer = answer
        self.connections = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        workers = []
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                break
            self.connections.append(connection)
            workers.append(threading.Thread(target=self.one, args=(connection,)))
            workers[-1].start()
        for worker in workers:
            worker.join()

    def one(self, connection):
        try:
            self.answer(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.thread.join()


@pytest.fixture
def server():
    made = []

    def make(answer):
        made.append(RawServer(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def transport():
    made = []

    def make(url, **more):
        made.append(Transport(url, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def drip(connection):
    """A byte now and then: no single read ever times out."""
    for byte in OK * 100:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def hang(connection):
    connection.recv(65536)
    connection.recv(1)


def test_a_server_that_drips_meets_the_total_limit(server, transport):
    began = time.monotonic()
    with pytest.raises(ServerUnavailable):
        transport(server(drip).url).call("GET", "/", limits=Limits(idle_s=5, total_s=0.5))
    assert time.monotonic() - began < 2


def test_a_silent_server_meets_the_idle_limit(server, transport):
    began = time.monotonic()
    with pytest.raises(ServerUnavailable):
        transport(server(hang).url).call("GET", "/", limits=Limits(idle_s=0.3, total_s=30))
    assert time.monotonic() - began < 2


def test_an_interrupt_ends_a_call_in_flight_and_the_next_one_works(server, transport):
    def first_hangs(connection):
        if len(raw.connections) == 1:
            hang(connection)
        else:
            connection.recv(65536)
            connection.sendall(OK)

    raw = server(first_hangs)
    talk = transport(raw.url)
    timer = threading.Timer(0.2, talk.interrupt)
    timer.start()
    began = time.monotonic()
    with pytest.raises(ServerUnavailable):
        talk.call("GET", "/", limits=Limits())
    timer.join()
    assert time.monotonic() - began < 2
    assert talk.call("GET", "/", limits=Limits()).body == b"ok"


def test_an_answer_without_end_is_cut_at_its_bound(server, transport):
    def endless(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with pytest.raises(ServerGarbled):
        transport(server(endless).url).call("GET", "/", limits=Limits(most_bytes=1 << 20))


def test_a_short_answer_is_not_taken_for_a_whole_one(server, transport):
    def short(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")

    with pytest.raises(ServerUnavailable):
        transport(server(short).url).call("GET", "/", limits=Limits())


def test_a_redirect_is_an_answer_and_not_followed(server, transport):
    def elsewhere(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    assert transport(server(elsewhere).url).call("POST", "/", body=b"{}", limits=Limits()).status == 302


def test_calls_share_one_connection(server, transport):
    def patient(connection):
        while connection.recv(65536):
            connection.sendall(OK)

    raw = server(patient)
    talk = transport(raw.url)
    for _ in range(5):
        talk.call("GET", "/", limits=Limits())
    assert len(raw.connections) == 1


# --- headers ----------------------------------------------------------------------------------------


def test_headers_of_an_answer_are_found_in_any_case(server, transport):
    def answer(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 500 X\r\nExceptionMessage: why\r\nContent-Length: 0\r\n\r\n")

    found = transport(server(answer).url).call("GET", "/", limits=Limits()).headers
    assert found["exceptionmessage"] == found["EXCEPTIONMESSAGE"] == "why"


# --- a body from the disk ---------------------------------------------------------------------------

UPLOAD = """
import resource, sys
from pathlib import Path
from pilot.net.transport import Transport
from pilot.panda.checkpoints import CheckpointClient
from pilot.panda.wire import Wire
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
CheckpointClient(Wire(Transport(sys.argv[1]), sys.argv[1], "test")).put(31, "7", Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
ENVELOPE = b'HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n{"success": true, "message": "", "data": ""}'


def swallow(connection, answer=ENVELOPE):
    """Take a request with its body; how long that was."""
    with connection.makefile("rb") as stream:
        length = 0
        while line := stream.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        left = length
        while left and (piece := stream.read(min(left, 1 << 20))):
            left -= len(piece)
    connection.sendall(answer)
    return length - left


def test_a_checkpoint_of_500_mb_is_sent_in_little_memory(server, tmp_path):
    taken = []
    file = tmp_path / "checkpoint"
    with file.open("wb") as sparse:
        sparse.truncate(500 << 20)
    raw = server(lambda connection: taken.append(swallow(connection)))
    grown = subprocess.run(
        [sys.executable, "-c", UPLOAD, raw.url, str(file)], check=True, capture_output=True, timeout=120
    ).stdout
    assert taken[0] > 500 << 20
    assert int(grown) < 16 << 10  # KiB


def test_an_upload_that_nobody_takes_meets_the_idle_limit(server, transport):
    stop = threading.Event()
    talk = transport(server(lambda _: stop.wait(30)).url)
    try:
        with pytest.raises(ServerUnavailable):
            talk.call("POST", "/", body=io.BytesIO(bytes(64 << 20)), limits=Limits(idle_s=0.3, total_s=30))
    finally:
        stop.set()


def test_an_upload_that_is_taken_slowly_meets_the_total_limit(server, transport):
    def slow(connection):
        while connection.recv(4096):
            time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(ServerUnavailable):
        transport(server(slow).url).call(
            "POST", "/", body=io.BytesIO(bytes(64 << 20)), limits=Limits(idle_s=5, total_s=0.5)
        )
    assert time.monotonic() - began < 5


def test_an_interrupt_ends_an_upload(server, transport):
    taken, stop = threading.Event(), threading.Event()

    def hold(connection):
        connection.recv(1)
        taken.set()
        stop.wait(30)

    talk, began = transport(server(hold).url), time.monotonic()
    threading.Thread(target=lambda: taken.wait(30) and talk.interrupt()).start()
    try:
        with pytest.raises(ServerUnavailable) as caught:
            talk.call("POST", "/", body=io.BytesIO(bytes(64 << 20)), limits=Limits())
        assert caught.value.maybe_done
        assert time.monotonic() - began < 10
    finally:
        stop.set()


# --- an answer to the disk --------------------------------------------------------------------------


def giving(body, *headers):
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers])

    def answer(connection):
        connection.recv(65536)
        connection.sendall(f"{head}\r\n\r\n".encode() + body)

    return answer


def test_a_download_goes_into_its_file(server, transport, tmp_path):
    body = bytes(range(256)) * 4096
    answer = transport(server(giving(body)).url).call(
        "GET", "/", limits=Limits(most_bytes=len(body)), target=tmp_path / "f"
    )
    assert (answer.status, answer.body) == (200, b"")
    assert (tmp_path / "f").read_bytes() == body


def test_a_tarball_that_a_server_calls_an_encoding_is_kept_as_it_is(server, transport, tmp_path):
    body = gzip.compress(b"content")
    talk = transport(server(giving(body, "Content-Encoding: gzip")).url)
    talk.call("GET", "/", limits=Limits(), target=tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == body


@pytest.mark.parametrize("told", [True, False])
def test_a_download_beyond_its_limit_leaves_no_file(server, transport, tmp_path, told):
    def untold(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001))

    talk = transport(server(giving(bytes(1001)) if told else untold).url)
    with pytest.raises(ServerGarbled, match="larger than 1000 bytes"):
        talk.call("GET", "/", limits=Limits(most_bytes=1000), target=tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_download_that_breaks_off_leaves_no_file(server, transport, tmp_path):
    def short(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")

    with pytest.raises(ServerUnavailable):
        transport(server(short).url).call("GET", "/", limits=Limits(), target=tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_an_answer_that_is_not_the_file_is_not_written(server, transport, tmp_path):
    def missing(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 404 X\r\nContent-Length: 4\r\n\r\nnone")

    answer = transport(server(missing).url).call("GET", "/", limits=Limits(most_bytes=1), target=tmp_path / "f")
    assert (answer.status, answer.body) == (404, b"none")
    assert not (tmp_path / "f").exists()


def test_a_full_disk_is_no_fault_of_the_server(server, transport, tmp_path):
    full = tmp_path / "f"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        transport(server(giving(bytes(1 << 20))).url).call("GET", "/", limits=Limits(most_bytes=1 << 20), target=full)
    assert not full.is_symlink()
    assert Path("/dev/full").exists()


# --- credentials ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A CA that a server and a client have certificates of: the CA's file, the server's context, the client's file."""
    folder = tmp_path_factory.mktemp("ca")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    ca.issue_cert("pilot@example").private_key_and_cert_chain_pem.write_to_path(folder / "x509up")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return str(folder / "ca.pem"), context, str(folder / "x509up")


def test_our_certificate_is_not_shown_to_a_cache_that_a_job_names(server, transport, authority, tmp_path):
    ca, context, certificate = authority
    shown = []

    def handshake(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            shown.append(bool(secure.getpeercert()))
            with secure.makefile("rb") as stream:
                while stream.readline().strip():
                    continue
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    url = server(handshake).url.replace("http:", "https:")
    wire = Wire(transport(url, verify=ca, certificate=certificate), url, "test")
    assert wire.get("/", {}, Limits()) == {}
    assert CheckpointClient(wire).get(url, 31, "7", tmp_path / "f", 10)
    assert wire.get("/", {}, Limits()) == {}
    assert shown == [True, False, True]


def test_an_interrupt_finds_the_connection_in_use_among_those_that_are_kept(server, transport, authority):
    asked = threading.Event()

    def until_the_second(connection):
        for number in range(2):
            if not connection.recv(65536):
                return
            if number == 0:
                connection.sendall(OK)
        asked.set()
        connection.recv(1)

    raw = server(until_the_second)
    talk = transport(raw.url, certificate=authority[2])
    talk.call("GET", "/", limits=Limits())
    talk.call("GET", "/", limits=Limits(), anonymous=True)
    assert len(raw.connections) == 2
    threading.Thread(target=lambda: asked.wait(30) and talk.interrupt()).start()
    began = time.monotonic()
    with pytest.raises(ServerUnavailable):
        talk.call("GET", "/", limits=Limits(idle_s=30, total_s=30))
    assert asked.is_set()
    assert time.monotonic() - began < 10


def test_each_user_of_the_credentials_notices_their_rotation(server, transport, tmp_path):
    def patient(connection):
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    raw = server(patient)
    token = tmp_path / "token"
    token.write_text("first")
    credentials = Credentials(CredentialFiles(token=str(token), origin="vo.role"), lambda _: None, time.time)
    wires = [Wire(transport(raw.url), raw.url, "test", credentials) for _ in range(3)]
    for wire in wires * 2:
        wire.get("/", {}, Limits())
    assert len(raw.connections) == 3
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").replace(token)
    for wire in wires * 2:
        wire.get("/", {}, Limits())
    assert len(raw.connections) == 6


INFORMATIONAL = b"HTTP/1.1 102 Processing\r\nX-Step: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


@pytest.mark.parametrize("before", [INFORMATIONAL, b"HTTP/1.1 100 Continue\r\n\r\n" + INFORMATIONAL, b""])
def test_informational_answers_are_passed_over(server, before):
    def answer(connection):
        for _ in range(2):
            connection.recv(65536)
            connection.sendall(before + OK)

    transport = Transport(server(answer).url)

    assert [transport.call("GET", "/x", limits=Limits()).body for _ in range(2)] == [b"ok", b"ok"]


@pytest.mark.parametrize(
    ("piece", "pause_s"),
    [
        (b"HTTP/1.1 102 Processing\r\n\r\n", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 0),
        (b"HTTP/1.1 102 P\r\nX: " + b"x" * 60_000 + b"\r\n\r\n", 0),
        (b"HTTP/1.1 102 Processing\r\n\r\n", 0.05),
    ],
)
def test_a_stream_of_informational_answers_has_an_end(server, piece, pause_s):
    def answer(connection):
        connection.recv(65536)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    transport, began = Transport(server(answer).url), time.monotonic()

    with pytest.raises(ServerUnavailable):
        transport.call("GET", "/x", limits=Limits(idle_s=1, total_s=2))

    assert time.monotonic() - began < 4


def test_a_switch_to_another_protocol_is_an_answer(server):
    def answer(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")

    assert Transport(server(answer).url).call("GET", "/x", limits=Limits()).status == 101
