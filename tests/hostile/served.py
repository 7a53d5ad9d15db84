"""A `pilot serve` process that is attacked: what it says, what it costs, and whether others are answered meanwhile."""

import contextlib
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.lab import DEADLINE_S, clean_environment
from tests.local import local_token

PATIENCE_S = 10
ALIVE = "/api/v1/system/is_alive"


class Answer:
    """Status, headers and body; status 0 where the connection ended without an answer."""

    def __init__(self, raw):
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first = head.split(b" ", 2)
        self.status = int(first[1]) if len(first) > 1 and first[0].startswith(b"HTTP/") else 0

    def __repr__(self):
        return f"Answer({self.raw[:300]!r})"


class Target:
    """The process. Everything about it is read from outside."""

    def __init__(self, folder: Path, *arguments):
        self.data = folder / "data"
        self.errors = folder / "serve.stderr"
        command = [sys.executable, "-m", "pilot", "serve", "--port", "0", "--data", str(self.data), *arguments]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=clean_environment()
            )
        try:
            self._await()
        except BaseException:
            self.end()
            raise

    def _await(self):
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        line = self.process.stdout.readline() if ready else ""
        assert line.startswith("ready "), f"no server: {line} {self.errors.read_text()}"
        self.url = line.split()[1]
        parts = urlsplit(self.url)
        self.host, self.port, self.secure = parts.hostname, parts.port, parts.scheme == "https"
        self.own = parts.netloc
        assert self.get(ALIVE).status == 200
        self.before = self.memory("VmRSS")

    @property
    def token(self):
        return local_token(self.data)

    def memory(self, name):
        """KiB of it, as the kernel counts: VmRSS now, VmHWM at most until now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    @property
    def grown_mib(self):
        """By how much it was ever larger than at its start."""
        return (self.memory("VmHWM") - self.before) / 1024

    def connect(self):
        connection = socket.create_connection((self.host, self.port), timeout=PATIENCE_S)
        if not self.secure:
            return connection
        context = ssl.create_default_context(cafile=str(self.data / "tls" / "ca.pem"))
        return context.wrap_socket(connection, server_hostname=self.host)

    def send(self, raw, *, half_closed=False):
        """The answer to these bytes, up to the connection's end."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(raw)
                if half_closed:
                    connection.shutdown(socket.SHUT_WR)
            return Answer(received(connection))

    def ask(self, method, target, body=b"", host=None, **headers):
        """The answer to a request; names of headers have _ for -."""
        told = {"Host": host or self.own, "Connection": "close", "Content-Length": str(len(body))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{name}: {value}" for name, value in told.items() if value is not None]
        return self.send("\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body)

    def get(self, target, **headers):
        return self.ask("GET", target, **headers)

    def own_call(self, method, target, body=b"", **headers):
        """One under /local/ with all that it needs."""
        more = {"Authorization": f"Bearer {self.token}", "Content_Type": "application/json", **headers}
        return self.ask(method, target, body, **more)

    def is_prompt(self):
        """Others are answered, and within the second that is promised."""
        began = time.monotonic()
        answer = self.get(ALIVE)
        took = time.monotonic() - began
        assert answer.status == 200, answer
        return took < 1.0

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE_S)
            finally:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


def received(connection):
    """All bytes until the other side ends."""
    pieces = []
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)
