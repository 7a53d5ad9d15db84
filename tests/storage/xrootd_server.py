"""A real xrootd on free loopback ports: root:// on one, http and https on the other."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import trustme

_CONFIG = """\
all.adminpath {home}/run
all.pidpath {home}/run
oss.localroot {home}/data
all.export /
xrd.port {root_port}
xrd.network dnr
xrootd.chksum max 64 adler32 crc32c md5
xrd.tls {home}/host.pem {home}/host.key
xrd.tlsca certfile {home}/ca.pem
xrootd.tls none
xrd.protocol http:{web_port} libXrdHttp.so
http.httpsmode auto
"""


class XrootdServer:
    """Started by `with`; ``data`` is what it serves."""

    def __init__(self, ca: trustme.CA) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="xrootd-", dir="/tmp"))
        self.data = self.home / "data"
        self.root_port, self.web_port = _free_ports(2)
        self._user = "xrootd" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._prepare(ca)

    @staticmethod
    def missing() -> str | None:
        """Why it cannot be started, or None."""
        return None if shutil.which("xrootd") else "no xrootd here: apt-get install xrootd-server xrootd-server-plugins"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def root(self, path: str) -> str:
        return f"root://127.0.0.1:{self.root_port}//{path}"

    def roots(self, path: str) -> str:
        return f"roots://localhost:{self.root_port}//{path}"

    def https(self, path: str) -> str:
        return f"https://localhost:{self.web_port}/{path}"

    def davs(self, path: str) -> str:
        return f"davs://localhost:{self.web_port}/{path}"

    def http(self, path: str) -> str:
        return f"http://127.0.0.1:{self.web_port}/{path}"

    def put(self, path: str, content: bytes) -> Path:
        """Lay a file down behind the server's back."""
        target = self.data / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self._give(target)
        return target

    def adler32(self, path: str) -> str:
        """What another client, xrdfs, is told about a stored file."""
        command = ["xrdfs", f"127.0.0.1:{self.root_port}", "query", "checksum", f"/{path}"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.split()[1]

    def __enter__(self) -> Self:
        as_user = ["-R", self._user] if self._user else []
        command = ["xrootd", *as_user, "-c", str(self.home / "xrootd.cfg"), "-l", str(self.home / "log" / "xrootd.log")]
        self._process = subprocess.Popen(command, cwd=self.home / "run", stderr=subprocess.DEVNULL)
        for port in (self.root_port, self.web_port):
            self._await(port)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def _prepare(self, ca: trustme.CA) -> None:
        self.home.chmod(0o755)  # pytest's own directories are closed to the user xrootd
        for name in ("data", "run", "log"):
            (self.home / name).mkdir()
            self._give(self.home / name)
        host = ca.issue_cert("localhost", "127.0.0.1")
        ca.cert_pem.write_to_path(str(self.home / "ca.pem"))
        host.cert_chain_pems[0].write_to_path(str(self.home / "host.pem"))
        host.private_key_pem.write_to_path(str(self.home / "host.key"))
        (self.home / "host.key").chmod(0o400)  # it refuses a key that others can read
        self._give(self.home / "host.key")
        config = _CONFIG.format(home=self.home, root_port=self.root_port, web_port=self.web_port)
        (self.home / "xrootd.cfg").write_text(config)

    def _give(self, path: Path) -> None:
        """Make a file, and the directories above it, the server's own."""
        if self._user is None:
            return
        user = pwd.getpwnam(self._user)
        while path != self.home:
            os.chown(path, user.pw_uid, user.pw_gid)
            path = path.parent

    def _await(self, port: int) -> None:
        assert self._process is not None
        end = time.monotonic() + 20
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)  # nothing of its own tells when it listens
        logs = [file.read_text(errors="replace")[-2000:] for file in (self.home / "log").rglob("*.log")]
        raise RuntimeError("xrootd does not start: " + "\n".join(logs))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]
