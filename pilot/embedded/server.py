"""The embedded server as a whole: start it, stop it, or run it until a signal comes."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from pilot.embedded.adder import Adder, Limits
from pilot.embedded.app import Parts, application
from pilot.embedded.database import JobTable
from pilot.embedded.faults import Faults
from pilot.embedded.gateway import HttpServer, thread_of
from pilot.embedded.requestlog import RequestLog
from pilot.embedded.store import Store
from pilot.values.errors import UsageError

_PATIENCE_S = 2.0


class EmbeddedServer:
    """A PanDA server in this process, on threads of its own; all its state is in ``data``.

    ``port`` 0 picks a free one. ``adder_delay_s`` is the time between a final update and its verdict,
    ``limits`` how long a job may be silent, ``certificate`` the PEM files (chain, key) for HTTPS.
    Raises UsageError if it cannot have the directory or the port.
    """

    def __init__(
        self,
        data: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        adder_delay_s: float = 0.2,
        certificate: tuple[str, str] | None = None,
        *,
        limits: Limits | None = None,
        timefloor_min: int = 0,
    ) -> None:
        self._data = data
        self._address = (host, port)
        self._adder_delay_s = adder_delay_s
        self._certificate = certificate
        self._limits = limits or Limits()
        self._timefloor_min = timefloor_min
        self._stopping = threading.Event()
        self._lock: int | None = None
        self._parts: Parts | None = None
        self._http: HttpServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the server is reached, without a slash at the end."""
        if self._http is None:
            raise RuntimeError("the server is not started")
        host, port = self._http.bind_addr
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._certificate else 'http'}://{shown}:{port}"

    def start(self) -> Self:
        """Open the data, listen, and answer from now on."""
        try:
            self._open()
            self._listen()
        except BaseException:
            self.stop()
            raise
        return self

    def _open(self) -> None:
        """Take the data directory for this server alone, and open what is in it."""
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            table = JobTable(self._data / "jobs.sqlite")
            self._parts = Parts(
                table=table,
                log=RequestLog(self._data / "requests.sqlite"),
                store=Store(self._data / "store", self._data / "incoming", self._data / "digests.sqlite"),
                adder=Adder(table, self._adder_delay_s, self._limits),
                faults=Faults(),
                stopping=self._stopping,
                timefloor_min=self._timefloor_min,
            )
        except BlockingIOError:
            raise UsageError(f"data directory {self._data}: another server uses it") from None
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"data directory {self._data}: {reason}") from None

    def _listen(self) -> None:
        if self._parts is None:
            raise RuntimeError("the data is not open")
        http = HttpServer(self._address, application(self._parts), self._certificate)
        try:
            http.prepare()
        except OSError as error:
            reason = http.refusal or error.strerror or str(error)
            raise UsageError(f"cannot listen on {self._address[0]} port {self._address[1]}: {reason}") from None
        self._http = http
        self._thread = thread_of(http)
        self._parts.adder.start()

    def stop(self) -> None:
        """Stop listening, end what is in progress within seconds, and close the data. May be called twice."""
        self._stopping.set()
        if self._http and self._thread:
            self._http.end(_PATIENCE_S)
            self._thread.join()
            self._thread = None
        if self._parts:
            self._parts.adder.stop()
            for part in (self._parts.table, self._parts.log, self._parts.store):
                part.close()
            self._parts = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve_forever(
    data: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: tuple[str, str] | None = None,
) -> None:
    """Run a server until SIGTERM or SIGINT; prints ``ready URL`` when it can be used. For the main thread."""
    stop = threading.Event()
    former = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        with EmbeddedServer(data, host, port, certificate=certificate) as server:
            sys.stdout.write(f"ready {server.url}\n")
            sys.stdout.flush()
            stop.wait()
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)
