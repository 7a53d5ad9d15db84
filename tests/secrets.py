"""Secrets that tests hand out, and the search for them in all that was written when the tests are over."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

HANDED_OUT: set[str] = set()

_TARBALLS = (".tgz", ".tar.gz")
_LARGEST = 64 << 20  # what is larger is data


def secret(text: str) -> str:
    """Remember it: where it is found at the end, the run has failed."""
    HANDED_OUT.add(text)
    return text


def leaks(secrets: set[str], *places: Path) -> list[str]:
    """Files below ``places`` that hold a secret, tarballs opened; a file that is nothing but the secret is its home."""
    if not secrets:
        return []
    pattern = re.compile(b"|".join(re.escape(one.encode()) for one in secrets))
    homes = {one.encode() for one in secrets}
    files = (path for place in places for path in ([place] if place.is_file() else place.rglob("*")))
    return sorted(
        {name for path in files for name, text in _texts(path) if text.strip() not in homes and pattern.search(text)}
    )


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    with contextlib.suppress(OSError):  # gone meanwhile
        if not path.is_file() or path.is_symlink() or path.stat().st_size > _LARGEST:
            return
        content = path.read_bytes()
        yield str(path), content
        if path.name.endswith(_TARBALLS):
            yield from _members(path, content)


def _members(path: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    with contextlib.suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                yield f"{path}: {member.name}", file.read()
