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
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import trustme

from tests.storage.small_disk import small_disk
from tests.storage.tokens import ANY_AUDIENCE, Issuer

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
http.listingdeny no
http.exthandler xrdtpc libXrdHttpTPC.so
ofs.tpc ttl 15 30 xfr 8 autorm pgm /usr/bin/xrdcp --server
"""

_GUARD = """\
http.header2cgi Authorization authz
xrootd.seclib libXrdSec.so
sec.protocol ztn
sec.protbind * only ztn
acc.authdb {home}/authdb
ofs.authorize 1
ofs.authlib ++ libXrdAccSciTokens.so config={home}/scitokens.cfg
"""

_GUARD_PLUGINS = ("libXrdSecztn-5.so", "libXrdAccSciTokens-5.so")

_SCITOKENS = """\
[Global]
audience = {audiences}
onmissing = passthrough
[Issuer lab]
issuer = {issuer}
base_path = /
map_subject = false
default_user = xrootd
"""


class XrootdServer:
    """Started by `with`; ``data`` is what it serves. It copies from others, whose authority it trusts, when asked.

    With an ``issuer`` it is guarded: its tokens are asked for, as the header Authorization or as the login of
    root://, and whoever has none may read what lies below /pub over http. Nobody can pass it a token to fetch
    with over root://; ``own_token`` is what it then shows to another guarded server.
    """

    def __init__(self, ca: trustme.CA, issuer: Issuer | None = None, own_token: str | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="xrootd-", dir="/tmp"))
        self.data = self.home / "data"
        self.root_port, self.web_port = _free_ports(2)
        self._user = "xrootd" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = os.environ | {"X509_CERT_DIR": str(self.authorities)}
        self._prepare(ca, _CONFIG if issuer is None else _CONFIG + _GUARD)
        if issuer is not None:
            self._guard(issuer)
        if own_token is not None:
            self._keep(own_token)

    @staticmethod
    def missing(*, guarded: bool = False) -> str | None:
        """Why it cannot be started, or None."""
        absent = [name for name in ("xrootd", "xrdcp", "openssl") if shutil.which(name) is None]
        if guarded:
            absent += [name for name in _GUARD_PLUGINS if not any(Path("/usr").glob(f"lib/*/{name}"))]
        return f"no {', '.join(absent)} here: sh tests/system-packages.sh" if absent else None

    @property
    def authorities(self) -> Path:
        """For X509_CERT_DIR, where root:// clients look for authorities."""
        return self.home / "authorities"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def audiences(self) -> list[str]:
        """Whom a token may name that is meant for this server alone."""
        return [f"https://localhost:{self.web_port}", f"root://localhost:{self.root_port}"]

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

    def small_disk(self, path: str, size_mib: int = 4) -> AbstractContextManager[Path]:
        """A directory of the server's that is full before long; see `small_disk`."""
        folder = self.data / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        self._give(folder)
        return small_disk(folder, size_mib)

    def adler32(self, path: str) -> str:
        """What another client, xrdfs, is told about a stored file."""
        command = ["xrdfs", f"127.0.0.1:{self.root_port}", "query", "checksum", f"/{path}"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.split()[1]

    def __enter__(self) -> Self:
        as_user = ["-R", self._user] if self._user else []
        command = [
            "xrootd",
            "-I",
            "v4",
            *as_user,
            "-c",
            str(self.home / "xrootd.cfg"),
            "-l",
            str(self.home / "log" / "xrootd.log"),
        ]
        self._process = subprocess.Popen(
            command, cwd=self.home / "run", env=self._environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
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

    def _prepare(self, ca: trustme.CA, config: str) -> None:
        self.home.chmod(0o755)  # pytest's own directories are closed to the user xrootd
        for name in ("data", "run", "log", "authorities"):
            (self.home / name).mkdir()
            self._give(self.home / name)
        host = ca.issue_cert("localhost", "127.0.0.1")
        ca.cert_pem.write_to_path(str(self.home / "ca.pem"))
        # the xrdcp that it starts to fetch from another looks for authorities by their hashed names
        ca.cert_pem.write_to_path(str(self.authorities / "ca.pem"))
        subprocess.run(["openssl", "rehash", str(self.authorities)], check=True, timeout=30)
        host.cert_chain_pems[0].write_to_path(str(self.home / "host.pem"))
        host.private_key_pem.write_to_path(str(self.home / "host.key"))
        (self.home / "host.key").chmod(0o400)  # it refuses a key that others can read
        self._give(self.home / "host.key")
        config = config.format(home=self.home, root_port=self.root_port, web_port=self.web_port)
        (self.home / "xrootd.cfg").write_text(config)

    def _guard(self, issuer: Issuer) -> None:
        """Lay down what the plugin reads. It knows no authority but the system's: its keys must be there already."""
        (self.home / "authdb").write_text("u * /pub lr\n")
        audiences = ", ".join([ANY_AUDIENCE, *self.audiences])
        (self.home / "scitokens.cfg").write_text(_SCITOKENS.format(audiences=audiences, issuer=issuer.url))
        for path in issuer.fill_cache(self.home / "keys"):
            self._give(path)
        self._environment["XDG_CACHE_HOME"] = str(self.home / "keys")

    def _keep(self, token: str) -> None:
        file = self.home / "token"
        file.write_text(token)
        file.chmod(0o600)
        self._give(file)
        self._environment["BEARER_TOKEN_FILE"] = str(file)

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
