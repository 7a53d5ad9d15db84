"""Puts something else in the place of a file: ``attack.py KIND SECRET PATH...``. Run by payloads, and by tests."""

import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

HUGE_BYTES = 1 << 40


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fifo(path: Path, _secret: Path) -> None:
    _gone(path)
    os.mkfifo(path)


def symlink(path: Path, secret: Path) -> None:
    _gone(path)
    path.symlink_to(secret)


def hardlink(path: Path, secret: Path) -> None:
    _gone(path)
    os.link(secret, path)


def directory(path: Path, _secret: Path) -> None:
    _gone(path)
    (path / "below").mkdir(parents=True)


def unix_socket(path: Path, _secret: Path) -> None:
    _gone(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def huge(path: Path, _secret: Path) -> None:
    """Of zeros that take no space, in the place of a file; a directory is left."""
    if not path.is_dir():
        with path.open("ab") as file:
            file.truncate(HUGE_BYTES)


def missing(path: Path, _secret: Path) -> None:
    _gone(path)


def unreadable(path: Path, _secret: Path) -> None:
    path.chmod(0)


KINDS = {
    "fifo": fifo,
    "symlink": symlink,
    "hardlink": hardlink,
    "directory": directory,
    "socket": unix_socket,
    "huge": huge,
    "missing": missing,
    "unreadable": unreadable,
}


def attack(kind: str, secret: Path, paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # what is beyond our reach is not ours to spoil
            KINDS[kind](path, secret)


if __name__ == "__main__":
    attack(sys.argv[1], Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]])
