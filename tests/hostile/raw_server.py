"""A web server that answers with the very bytes that it was told, whatever they are."""

from __future__ import annotations

import contextlib
import socket
import threading


class RawServer:
    """``say`` sets the answers of the connections to come, one each; the last one stays. With it a connection ends."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._answers: list[bytes] = [b""]
        self.asked = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, *answers: bytes) -> None:
        self._answers = list(answers)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        left = _request(connection)
        if left is None:
            return
        self.asked += 1
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        connection.sendall(answer)
        if left:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.2)
            while connection.recv(65536):  # what is not read would reset the connection, and take the answer along
                pass

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _request(connection: socket.socket) -> bool | None:
    """Read a request, and its body if its length is told; whether something is left of it. None if there is none."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        if not (piece := connection.recv(65536)):
            return None
        raw += piece
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
    if any(name in (b"expect", b"transfer-encoding") for name, _, _ in lines):
        return True
    while len(body) < length and (piece := connection.recv(65536)):
        body += piece
    return False


def answer(status: object, body: bytes = b"", *headers: tuple[str, object], length: object = None) -> bytes:
    """An answer in good form; ``length`` says another one than its own."""
    told = [("Content-Length", len(body) if length is None else length), *headers]
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in told)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body
