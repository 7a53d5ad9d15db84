"""The HTTP server under the Flask application: threads, keep-alive, and what WSGI does not offer.

Three things are added to the WSGI environment: ``pilot.there``, a function that tells whether the client still
waits; ``pilot.client``, the subject of its certificate; and ``pilot.here``, our address as the client knows it. Two
are looked for in it: ``pilot.drop``, to close the connection without an answer, and ``pilot.refused``, to answer
without reading what else the client would send.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from typing import Any

from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter

from pilot.embedded.connections import IDLE_S, Connection, Connections
from pilot.embedded.streams import HEAD_BYTES

_THREADS = 48
_PIECE_BYTES = 2**16
_DRAINED_BYTES = 2**28
_DRAINED_S = 30.0
_ERROR = 40


class _Gateway(wsgi.Gateway_10):
    """Runs the application for one request."""

    def get_environ(self) -> Any:
        """The WSGI environment, with what this module adds to it."""
        environ = super().get_environ()  # type: ignore[no-untyped-call]
        connection = self.req.conn.socket
        own = {
            "pilot.there": lambda: client_waits(connection),
            "pilot.client": subject(connection),
            "pilot.here": here(connection),
        }
        return {**environ, **own}

    def respond(self) -> None:
        """Run the application and send what it answers, or nothing."""
        with self.req.server.busy(self.req.conn.socket):
            response = self.req.server.wsgi_app(self.env, self.start_response)
            try:
                if self.env.get("pilot.drop"):
                    self._hang_up()
                else:
                    self._drain()
                    for chunk in response:
                        self.write(chunk)
                    self.req.ensure_headers_sent()
            finally:
                response.close()

    def _drain(self) -> None:
        """Throw away what the application did not read of the body; it would be the next request's beginning.

        cheroot does this too, but at one go into memory, and as long as it takes.
        """
        if self.env.get("pilot.refused") or b"Transfer-Encoding" in self.req.inheaders:
            self.req.close_connection |= bool(self._unread)
            self._forget_body()
            return
        end, most = time.monotonic() + _DRAINED_S, self._unread - _DRAINED_BYTES
        with contextlib.suppress(OSError):
            while self._unread > max(0, most) and time.monotonic() < end:
                if not self.req.rfile.read(_PIECE_BYTES):
                    break
        self.req.close_connection |= bool(self._unread)
        self._forget_body()

    @property
    def _unread(self) -> int:
        """How much of the body is to come; what has no length may be anything."""
        return 1 if self.req.chunked_read else int(self.req.rfile.remaining)

    def _forget_body(self) -> None:
        """What is left is left: cheroot would wait for it."""
        if not self.req.chunked_read:
            self.req.rfile.remaining = 0

    def _hang_up(self) -> None:
        """Close without a byte: cheroot must believe that the answer is out."""
        self.req.sent_headers = True
        self.req.close_connection = True
        self.req.conn.is_hung_up = True
        hang_up(self.req.conn.socket)


class HttpServer(wsgi.Server):
    """A threaded HTTP server whose requests in progress can be cut off."""

    expiration_interval = 0.1
    max_request_header_size = HEAD_BYTES
    ConnectionClass = Connection
    _connections: Any

    def __init__(
        self, address: tuple[str, int], application: Any, certificate: tuple[str, str] | None, clients: str = ""
    ) -> None:
        """``certificate`` (chain, key) makes it HTTPS; ``clients`` is the authority of those who may show one too."""
        super().__init__(
            address,
            application,
            numthreads=_THREADS,
            server_name="pilot-serve",
            request_queue_size=128,
            timeout=IDLE_S,
            shutdown_timeout=1,
        )
        self.gateway = _Gateway
        if certificate:
            self.ssl_adapter = BuiltinSSLAdapter(*certificate)
            if clients:
                _ask_for_certificates(self.ssl_adapter.context, clients)
        self._busy: set[socket.socket] = set()
        self.refusal = ""

    @staticmethod
    def bind_socket(connection: socket.socket, address: Any) -> socket.socket:
        """Bind, or close: cheroot forgets a socket that it could not bind."""
        try:
            connection.bind(address)
        except OSError:
            connection.close()
            raise
        return connection

    def bind(self, family: Any, kind: Any, proto: int = 0) -> Any:
        """Bind, and keep the reason why it could not be done: cheroot buries it in a sentence."""
        try:
            return super().bind(family, kind, proto)
        except OSError as error:
            self.refusal = error.strerror or str(error)
            raise

    def prepare(self) -> None:
        """Listen, and let our own thread look after the connections instead of cheroot's."""
        super().prepare()
        self._connections.close()
        self.connections = self._connections = Connections(self)

    @contextlib.contextmanager
    def busy(self, connection: socket.socket) -> Any:
        """Note that a request of this connection is being worked on."""
        self._busy.add(connection)
        try:
            yield
        finally:
            self._busy.discard(connection)

    def end(self, patience_s: float) -> None:
        """Stop: requests in progress may take ``patience_s`` to end, then they are cut off."""
        end = time.monotonic() + patience_s
        while self._busy and time.monotonic() < end:
            time.sleep(0.01)
        for connection in list(self._busy):
            hang_up(connection)
        self.stop()

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Tell errors only: a client that broke off is no news."""
        if level >= _ERROR:
            super().error_log(msg, level, traceback)


def here(connection: socket.socket) -> str:
    """The address at which a client has reached us."""
    try:
        return str(connection.getsockname()[0])
    except OSError:
        return ""


def _ask_for_certificates(context: ssl.SSLContext, clients: str) -> None:
    """Let clients show a certificate, also a proxy that they made of one, but not demand it."""
    context.load_verify_locations(clients)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS


def subject(connection: socket.socket) -> str:
    """The subject of the other side's certificate, as /DC=.../CN=...; "" if it showed none."""
    shown = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    names: Any = (shown or {}).get("subject", ())
    return "".join(f"/{_SHORT.get(key, key)}={value}" for one in names for key, value in one)


_SHORT = {
    "domainComponent": "DC",
    "countryName": "C",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "commonName": "CN",
}


def hang_up(connection: socket.socket) -> None:
    """End a connection at once, whoever uses it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def client_waits(connection: socket.socket) -> bool:
    """Whether the other side of a connection is still there, as far as the kernel knows."""
    waiting = select.poll()
    try:
        waiting.register(connection, select.POLLIN)
        if not waiting.poll(0):
            return True
        # The plain socket's recv, also below TLS, whose own cannot peek.
        return socket.socket.recv(connection, 1, socket.MSG_PEEK) != b""
    except (OSError, ValueError):
        return False


def thread_of(server: HttpServer) -> threading.Thread:
    """A started thread that accepts connections until ``end``."""
    thread = threading.Thread(target=server.serve, name="http", daemon=True)
    thread.start()
    return thread
