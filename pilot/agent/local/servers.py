"""The embedded servers of this machine and user: where their data are, by their addresses.

Each `pilot serve` leaves a note in a directory that only its user can write to; `submit` and `status` find the
server's local token by it. Nothing of that is believed before its owner, mode and kind were looked at: others
can write where the directory lies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pilot.values.errors import UsageError

TOKEN_FILE = "local_token"  # noqa: S105 - as pilot/embedded/access.py names it, which is not there in the image
_REACHED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on
_LISTENS = {
    "localhost": ("127.0.0.1", "::1", *_REACHED),
    "127.0.0.1": ("127.0.0.1", *_REACHED),
    "::1": ("::1", "::"),
}
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MOST_BYTES = 8192
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Known:
    """A server: where it is reached, its data directory if it is one of ours, and its local token if there is one."""

    url: str
    data: Path | None = None
    token: str = ""


@contextlib.contextmanager
def noted(data: Path, url: str, places: Iterable[Path]) -> Iterator[None]:
    """Leave a note of a server for the time of the block, in the first of ``places`` that can be trusted with it."""
    name = next(_names(url))[1]
    note = _mark(token_in(data)) + os.fsencode(data.absolute())
    with contextlib.ExitStack() as stack:
        folder = _writable(places, stack)
        if folder is not None:
            _write(folder, name, note)
            stack.callback(_remove, folder, name, note)
        yield


def known(url: str, places: Iterable[Path]) -> Known | None:
    """The server at ``url`` if it is one of ours."""
    for place in places:
        with contextlib.suppress(OSError), _folder(_own(place)) as folder:
            for host, name in _names(url):
                mark, data = _note(folder, name)
                if (token := token_in(data)) and mark == _mark(token):
                    return Known(_at(url, host), data, token)
    return None


def token_in(data: Path) -> str:
    """The local token in a server's data directory; "" if there is none that only its owner can have written."""
    try:
        token = _read(data / TOKEN_FILE).decode("ascii").strip()
    except (OSError, ValueError):
        return ""
    return token if _TOKEN.fullmatch(token) else ""


def checked(token: str) -> str:
    """A token that was given by hand. Raises UsageError for what cannot be one."""
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"PILOT_LOCAL_TOKEN: no token: it must be the content of {TOKEN_FILE} in the server's --data")
    return token


def _names(url: str) -> Iterator[tuple[str, str]]:
    """Where the server of this URL may listen, and what the note about it is called then, the best first."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return
    for listens in (*_LISTENS.get(host, (host,)),):
        if re.fullmatch(r"[0-9a-z.:_-]{1,200}", listens):
            yield _REACHED.get(listens, listens), f"{listens}_{port}"


def _at(url: str, host: str) -> str:
    """The URL with the address itself: somebody else's server may be behind another one of localhost."""
    parts = urlsplit(url)
    shown = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=f"{shown}:{parts.port or _PORTS[parts.scheme]}").geturl()


# --- the directory of notes


def _own(place: Path) -> Path:
    return place / f"pilot-serve-{os.geteuid()}"


def _writable(places: Iterable[Path], stack: contextlib.ExitStack) -> int | None:
    for place in places:
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                _own(place).mkdir(mode=0o700)
            return stack.enter_context(_folder(_own(place)))
    return None


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    """A directory's descriptor. Raises OSError if it is a link, or others may write into it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_ours(os.fstat(descriptor)):
            raise PermissionError
        yield descriptor
    finally:
        os.close(descriptor)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS


def _note(folder: int, name: str) -> tuple[bytes, Path]:
    """The mark and the directory in a note. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        note = _read(Path(name), folder)
        data = Path(os.fsdecode(note[_MARK:]))
        if data.is_absolute():
            return note[:_MARK], data
    return b"", Path()


def _mark(token: str) -> bytes:
    """Tells a token without telling it: a note that was left behind must not lead to that of a later server."""
    return hashlib.sha256(token.encode()).hexdigest().encode()


_MARK = 64


def _read(path: Path, folder: int | None = None) -> bytes:
    """A small file of ours. Raises OSError for links, for what is no file, and for what others can read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) and _is_ours(status)):
            raise PermissionError
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)


def _write(folder: int, name: str, note: bytes) -> None:
    with contextlib.suppress(OSError):
        beside = f".{secrets.token_hex(8)}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(note)
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)


def _remove(folder: int, name: str, note: bytes) -> None:
    """Unless a server of another directory has come after us at this address."""
    with contextlib.suppress(OSError):
        if _read(Path(name), folder) == note:
            os.unlink(name, dir_fd=folder)
