"""The embedded server as a whole: start it, stop it, or run it until a signal comes."""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import secrets
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pilot.embedded.access import LOCAL_TOKEN, Access
from pilot.embedded.adder import Adder, Limits
from pilot.embedded.app import application
from pilot.embedded.cache import Cache
from pilot.embedded.credential_calls import CredentialCalls
from pilot.embedded.database import Database, JobTable
from pilot.embedded.events import EventTable
from pilot.embedded.faults import Faults
from pilot.embedded.gateway import HttpServer, thread_of
from pilot.embedded.hpo.idds import Idds
from pilot.embedded.hpo.jobs import Generator
from pilot.embedded.hpo.studies import Studies
from pilot.embedded.identity import ROBOT, Gate
from pilot.embedded.issuer import OwnIssuer
from pilot.embedded.nodes import Nodes
from pilot.embedded.parts import Parts
from pilot.embedded.queues import Queues
from pilot.embedded.requestlog import RequestLog
from pilot.embedded.secretfile import write_secret
from pilot.embedded.store import Store
from pilot.values.errors import UsageError

Auth = Literal["none", "required"]
_PATIENCE_S = 2.0


class EmbeddedServer:
    """A PanDA server in this process, on threads of its own; all its state is in ``data``.

    ``port`` 0 picks a free one. ``adder_delay_s`` is the time between a final update and its verdict,
    ``limits`` how long a job may be silent (``lease_s``: so long in each state), ``certificate`` the PEM files
    (chain, key) for HTTPS.
    ``tls`` makes it HTTPS with an authority of its own in ``data``/tls, and asks clients for certificates.
    ``auth`` is "none" or "required": whether calls need a token or a certificate; with ``tls`` they do.
    ``legacy_events``: the calls about points from before v1 are answered as well; the live server forbids them.
    ``permissions`` has the letters of credential_calls by name, ``vos`` the organisations that an Origin may name.
    ``names`` are other names of this host that callers use. A host that is not loopback needs ``tls`` and demands
    credentials, unless it shall be ``insecure``.
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
        lease_s: float | None = None,
        timefloor_min: int = 0,
        tls: bool = False,
        auth: Auth | None = None,
        as_broken_as_1_0_4: bool = False,
        legacy_events: bool = False,
        permissions: Mapping[str, str] | None = None,
        vos: Sequence[str] = ("wlcg", "atlas", "local"),
        token_lifetime_s: float = 86400.0,
        names: Sequence[str] = (),
        insecure: bool = False,
    ) -> None:
        self._data = data
        self._address = (host, port)
        self._adder_delay_s = adder_delay_s
        self._certificate = certificate
        self._limits = limits or (Limits.lease(lease_s) if lease_s is not None else Limits())
        self._timefloor_min = timefloor_min
        self._tls = tls
        self._guarded = (auth or ("required" if tls else "none")) == "required"
        self._broken = as_broken_as_1_0_4
        self._legacy = legacy_events
        self._permissions = permissions or {}
        self._vos = vos
        self._names = tuple(names)
        self._insecure = insecure
        self._local_token = ""
        self._issuer = OwnIssuer(data, token_lifetime_s)
        self._stopping = threading.Event()
        self._lock: int | None = None
        self._parts: Parts | None = None
        self._http: HttpServer | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    @property
    def url(self) -> str:
        """Where the server is reached, without a slash at the end."""
        if self._http is None:
            raise RuntimeError("the server is not started")
        host, port = self._http.bind_addr
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._certificate or self._tls else 'http'}://{shown}:{port}"

    @property
    def ca(self) -> Path:
        """The authority that a client of a ``tls`` server trusts."""
        return self._issuer.authority.ca

    @property
    def local_token(self) -> str:
        """What a call under /local/ must show: a new one at each start, also in the file of this name in ``data``."""
        return self._local_token

    @property
    def token_key(self) -> str:
        """What must be shown for a fresh token."""
        return self._issuer.tokens.key

    def mint(self, **wishes: Any) -> str:
        """A token: ``lifetime_s`` (below 0: expired), ``vo``, ``role``, ``name``, ``groups``, ``scopes``."""
        return self._issuer.tokens.mint(**wishes)

    def client_certificate(self, name: str, lifetime_s: float = 3600.0, *, limited: bool = False) -> str:
        """A client's certificate with its key, as PEM text; ``limited`` as a limited proxy is."""
        return self._issuer.authority.client(name, lifetime_s, limited=limited)

    def set_queue(self, name: str, **fields: Any) -> None:
        """Put fields over those of a queue's document, ``status`` for example."""
        self._opened.queues.set(name, fields)

    def judge(self, job_id: int) -> None:
        """Give the Adder's verdict on a job at once."""
        self._opened.adder.judge_now(job_id)

    @property
    def _opened(self) -> Parts:
        if self._parts is None:
            raise RuntimeError("the server is not started")
        return self._parts

    def start(self) -> Self:
        """Open the data, listen, and answer from now on."""
        try:
            self._check_host()
            self._open()
            self._make_local_token()
            self._listen()
        except BaseException:
            self.stop()
            raise
        return self

    def _check_host(self) -> None:
        """Refuse to be reached from other machines by anybody."""
        if self._insecure or (self._tls and self._guarded) or _is_loopback(self._address[0]):
            return
        raise UsageError(
            f"--host {self._address[0]}: other machines could reach this server, and whoever reaches it can run"
            " programs here: add --tls --auth required, or --insecure if that is what you want"
        )

    def _make_local_token(self) -> None:
        token = secrets.token_urlsafe(32)
        try:
            write_secret(self._data / LOCAL_TOKEN, f"{token}\n".encode())
        except OSError as error:
            raise UsageError(f"data directory {self._data}: {LOCAL_TOKEN}: {error.strerror or error}") from None
        self._local_token = token

    def _open(self) -> None:
        """Take the data directory for this server alone, and open what is in it."""
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._parts = self._open_parts()
        except BlockingIOError:
            raise UsageError(f"data directory {self._data}: another server uses it") from None
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"data directory {self._data}: {reason}") from None

    def _open_parts(self) -> Parts:
        database = Database(self._data / "jobs.sqlite", durable=True)
        table, events = JobTable(database), EventTable(database)
        studies = Studies(database, events)
        return Parts(
            database=database,
            table=table,
            events=events,
            studies=studies,
            generator=Generator(database, studies, table, events),
            idds=Idds(studies, broken=self._broken),
            nodes=Nodes(database),
            queues=Queues(database),
            log=RequestLog(self._data / "requests.sqlite"),
            store=Store(self._data / "store", self._data / "incoming", self._data / "digests.sqlite"),
            cache=Cache(self._data / "cache", self._data / "cache-incoming"),
            adder=Adder(table, events, self._adder_delay_s, self._limits),
            faults=Faults(),
            gate=Gate(self._issuer if self._guarded else None, (ROBOT,), self._vos),
            issuer=self._issuer,
            credentials=CredentialCalls(database, self._issuer, self._permissions, self._data / "keys"),
            stopping=self._stopping,
            timefloor_min=self._timefloor_min,
            broken=self._broken,
            legacy=self._legacy,
        )

    def _secure(self) -> tuple[tuple[str, str] | None, str]:
        """Certificate and key for HTTPS, and the authority of clients; with them the credentials are written."""
        if self._guarded:
            self._issuer.tokens.key  # noqa: B018 - the files are there from the start
        if not self._tls:
            return self._certificate, ""
        authority = self._issuer.authority
        authority.write_client()
        return self._certificate or authority.server_files(self._address[0], *self._names), str(authority.ca)

    def _listen(self) -> None:
        try:
            credentials = self._secure()
        except (OSError, ValueError) as error:
            raise UsageError(f"credentials in {self._data}: {error}") from None
        app = application(self._opened)
        http = HttpServer(self._address, None, *credentials)
        try:
            http.prepare()
        except OSError as error:
            reason = http.refusal or error.strerror or str(error)
            raise UsageError(f"cannot listen on {self._address[0]} port {self._address[1]}: {reason}") from None
        self._http = http  # its threads run: whatever fails from here on, `stop` ends them
        names = {self._address[0], http.bind_addr[0], socket.gethostname(), *self._names}
        http.wsgi_app = Access(app, names, http.bind_addr[1], self._local_token)
        self._thread = thread_of(http)
        self._opened.adder.start()

    def stop(self) -> None:
        """Stop listening, end what is in progress within seconds, and close the data. May be called twice."""
        self._stopping.set()
        if self._http is not None and not self._ended:
            self._ended = True
            self._http.end(_PATIENCE_S)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._parts:
            self._parts.close()
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


def _is_loopback(host: str) -> bool:
    """Whether all that a host's name stands for is loopback; what stands for nothing cannot be listened on."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(ipaddress.ip_address(str(one[4][0]).partition("%")[0]).is_loopback for one in found)


def _return_memory() -> None:
    """Have glibc give back what a large body has needed: else each thread keeps as much for its next one."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 2**17)
        libc.mallopt(_M_ARENA_MAX, 2)


_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def serve_forever(
    data: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: tuple[str, str] | None = None,
    announced: Callable[[str], AbstractContextManager[None]] = lambda _url: nullcontext(),
    **options: Any,
) -> None:
    """Run a server until SIGTERM or SIGINT; prints ``ready URL`` when it can be used. For the main thread.

    ``announced`` is entered with the URL before that, and left at the end. ``options`` are those of EmbeddedServer.
    """
    _return_memory()
    stop = threading.Event()
    former = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        with EmbeddedServer(data, host, port, certificate=certificate, **options) as server, announced(server.url):
            sys.stdout.write(f"ready {server.url}\n")
            sys.stdout.flush()
            stop.wait()
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)
