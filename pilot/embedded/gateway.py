"""The HTTP server under the Flask application: threads, keep-alive, and what WSGI does not offer.

Three things are added to the WSGI environment: ``pilot.there``, a function that tells whether the client still
waits; ``pilot.client``, the subject of its certificate; and ``pilot.drop``: set to True, the connection is closed
without an answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from typing import Any

from cheroot import errors, wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter

_THREADS = 48
_KEEP_ALIVE_S = 600
_CONNECTIONS = 1000
_PIECE_BYTES = 2**16
_DRAINED_BYTES = 2**28
_ERROR = 40
_KNOCK_S = 0.005


class _Gateway(wsgi.Gateway_10):
    """Runs the application for one request."""

    def get_environ(self) -> Any:
        """The WSGI environment, with what this module adds to it."""
        environ = super().get_environ()  # type: ignore[no-untyped-call]
        connection = self.req.conn.socket
        return {**environ, "pilot.there": lambda: client_waits(connection), "pilot.client": subject(connection)}

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

        cheroot does this too, but at one go into memory, and not at all below chunks.
        """
        left = _DRAINED_BYTES
        with contextlib.suppress(OSError, ValueError, errors.MaxSizeExceeded):
            while left > 0 and (chunk := self.req.rfile.read(min(left, _PIECE_BYTES))):
                left -= len(chunk)
        if left <= 0 or self.req.chunked_read:
            self.req.close_connection = True

    def _hang_up(self) -> None:
        """Close without a byte: cheroot must believe that the answer is out."""
        self.req.sent_headers = True
        self.req.close_connection = True
        hang_up(self.req.conn.socket)


class HttpServer(wsgi.Server):
    """A threaded HTTP server whose requests in progress can be cut off."""

    keep_alive_conn_limit = _CONNECTIONS
    expiration_interval = 0.1

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
            timeout=_KEEP_ALIVE_S,
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
        knock = threading.Timer(_KNOCK_S, self._knock)
        knock.start()
        self.stop()
        knock.join()

    def _knock(self) -> None:
        """Connect to ourselves: the accepting thread looks only then, or after its interval, whether it shall end."""
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection(self.bind_addr[:2], timeout=1).close()

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Tell errors only: a client that broke off is no news."""
        if level >= _ERROR:
            super().error_log(msg, level, traceback)


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
