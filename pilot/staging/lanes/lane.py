"""Lane: one transfer process as its parent sees it: pipes, environment, and how it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import select
import site
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pilot.staging.lanes.attempt import Attempt, Limits
from pilot.staging.lanes.wallet import Identity

_END_S = 1.0
_KILLED_S = 5.0
_NEEDED = ("pilot", "requests", "urllib3", "certifi", "XRootD", "zlib_ng")


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What transfers may use and how long they may take.

    Args:
        ca_path: a CA bundle, or a directory of hashed certificates; None for the system's.
        http_proxy: URL of a proxy for http and https, or None.
        redirects: patterns of hosts that web servers may send outputs on to.
        lanes: how many processes may move files at once.
        connect_s: how long a server may take to accept a connection, in seconds.
        limits: how long the bytes of a file may take.
        keep_s: how long an idle process stays.
        patience_s: how long a file is tried again, counted from when it first came no further; of inputs three
            tries at most. None: three tries, however long they take.
    """

    ca_path: str | None = None
    http_proxy: str | None = None
    redirects: tuple[str, ...] = ()
    lanes: int = 4
    connect_s: float = 15.0
    limits: Limits = field(default_factory=Limits)
    keep_s: float = 5.0
    patience_s: float | None = None


class Lane:
    """A running transfer process. To be started in a thread that lives on: the process dies with it.

    ``key`` is who it is for the storages that it speaks to; ``orders`` are those that it has not answered.
    ``tired``: xrootd's library remembers a broken connection, and would not try again for a while.
    """

    def __init__(self, settings: LaneSettings, key: frozenset[Identity], login: Identity) -> None:
        """Start it; OSError if the system has no process to give."""
        self.key = key
        self.orders: deque[Attempt] = deque()
        self.tired = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pilot.staging.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(settings, login),
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        self._pidfd = _watched(self._process)
        self._rest = b""
        self._confined: int | None = None
        self.ended = False

    @property
    def pid(self) -> int:
        """The process; a zombie keeps the number until `end` or `kill`."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when it has something to say, or has ended."""
        assert self._process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        return self._process.stdout.fileno()

    def gone(self) -> bool:
        """Whether the process has ended, without waiting."""
        return self._exits_within(0)

    def send(self, message: dict[str, Any]) -> bool:
        """Write one line; False if nobody reads it any more."""
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return False
        return True

    def confine(self, most_bytes: int | None) -> None:
        """Let no file that it writes become larger: the kernel's own limit, of which the process learns as EFBIG."""
        if most_bytes == self._confined:
            return
        self._confined = most_bytes
        with contextlib.suppress(ProcessLookupError):  # it has ended: that is seen elsewhere
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            soft = hard if most_bytes is None else most_bytes if hard < 0 else min(hard, most_bytes)
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def messages(self) -> list[dict[str, Any]]:
        """Read what it has said; to be called when `fileno` is readable. At its end sets ``ended``."""
        data = os.read(self.fileno(), 1 << 16)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> int:
        """Let it end by itself, kill it if it does not, and collect it: its exit status, negative for a signal."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        self._exits_within(_END_S)
        return self.kill()

    def kill(self) -> int:
        """End it now (unless it has ended) and collect it."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.close()
        self._process.stdout.close()
        if not self.gone():
            self._process.kill()
            # Bounded: a process that hangs in a dead file system is collected later, by `subprocess` itself.
            self._exits_within(_KILLED_S)
        os.close(self._pidfd)
        status = self._process.poll()
        return -9 if status is None else status

    def _exits_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def _watched(process: subprocess.Popen[bytes]) -> int:
    """Its descriptor; OSError, and no process is left, if there is none to be had."""
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.communicate()
        raise


def environment(settings: LaneSettings, login: Identity) -> dict[str, str]:
    """The process's whole environment, built from nothing; ``login`` is for root:// servers."""
    seconds = {name: str(max(1, round(value))) for name, value in _xrootd_limits(settings).items()}
    variables = {
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONSAFEPATH": "1",  # else `-m` puts the current directory in front of the libraries
        "PYTHONPATH": os.pathsep.join(_import_path()),
        "PILOT_LANE_PARENT": str(os.getpid()),
        "PILOT_LANE_CONNECT_S": str(settings.connect_s),
        "PILOT_LANE_IDLE_S": str(settings.limits.idle_s),
        "PILOT_LANE_KEEP_S": str(settings.keep_s),
        "PILOT_LANE_CA": settings.ca_path or "",
        "PILOT_LANE_PROXY": settings.http_proxy or "",
        "PILOT_LANE_REDIRECTS": " ".join(settings.redirects),
        "X509_USER_PROXY": login.certificate,
        "BEARER_TOKEN_FILE": login.token_file,
        **_authorities(settings.ca_path),
        # A refused connection waits for the rest of the window before the library tries again. One try, then:
        # tries are counted in `lanes`, and there they are seconds apart.
        "XRD_CONNECTIONRETRY": "1",
        "XRD_TIMEOUTRESOLUTION": "1",  # its 15 s would be added to every limit
        **seconds,
    }
    return {name: value for name, value in variables.items() if value}


def _xrootd_limits(settings: LaneSettings) -> dict[str, float]:
    return {
        "XRD_CONNECTIONWINDOW": settings.connect_s,
        "XRD_REQUESTTIMEOUT": settings.limits.idle_s,
        "XRD_STREAMTIMEOUT": settings.limits.idle_s,
        "XRD_STREAMERRORWINDOW": settings.limits.idle_s,
    }


def _authorities(ca_path: str | None) -> dict[str, str]:
    """The CA in the names that xrootd reads."""
    if ca_path is None:
        return {}
    return {"X509_CERT_DIR" if Path(ca_path).is_dir() else "X509_CERT_FILE": ca_path}


@cache
def _import_path() -> list[str]:
    """Where our libraries are, as far as a new interpreter would not look there by itself."""
    roots: list[str] = []
    for name in _NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        root = str(Path(spec.origin).parents[1])
        if root not in (*site.getsitepackages(), *roots):
            roots.append(root)
    return roots
