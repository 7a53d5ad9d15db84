"""The HTTP of the reporter against servers that misbehave: each limit of a call is obeyed."""

import socket
import threading
import time

import pytest

from pilot.net.transport import Limits, Transport
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

    def make(url):
        made.append(Transport(url))
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
