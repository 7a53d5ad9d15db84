"""An HTTP server that gives the answers that it was told, and keeps what it was asked."""

import socket
import threading
from typing import NamedTuple


class Request(NamedTuple):
    """What came; ``headers`` by their names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Canned:
    """Answers one after the other, each on a connection of its own: (status, body) or (status, body, headers)."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answers = []
        self.requests = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                self.requests.append(_request(stream))
                status, body, *more = self.answers.pop(0)
                headers = {"Content-Type": "text/plain", **(more[0] if more else {}), "Connection": "close"}
                lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
                lines.append(f"Content-Length: {len(body)}\r\n\r\n")
                connection.sendall("\r\n".join(lines).encode() + body)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


def _request(stream):
    method, path, _ = stream.readline().decode().split()
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, path, headers, stream.read(int(headers.get("content-length", 0))))
