"""Snapshots: a checkpoint as one tarball, consistent although its evaluation may be writing it (hpo-contract.md 4.4).

The files are copied, and listed before and after: a copy counts only if nothing has changed meanwhile. Their
content decides whether anything is sent, not the time of a tarball.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pilot.values.deadline import Deadline
from pilot.values.events import events

log = events(__name__)

_TRIES = 3
_PIECE = 1 << 20

Listing = dict[str, tuple[int, int]]
"""Size and time of change (ns) of each file, by its path below the evaluation's directory."""


def listing(work: Path, paths: Sequence[str]) -> Listing:
    """The files that there are of these paths; links and what is neither file nor directory are left out."""
    found: Listing = {}
    for path in _files(work, paths):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found[str(path.relative_to(work))] = (status.st_size, status.st_mtime_ns)
    return found


def pack(work: Path, paths: Sequence[str], target: Path, most_bytes: int, limit: Deadline) -> str | None:
    """Write the tarball ``target``, and return the digest of its content.

    None where there is nothing to save, where it is larger than ``most_bytes``, or where the files changed each
    time that they were copied. Raises OSError.
    """
    for _ in range(_TRIES):
        before = listing(work, paths)
        if not before or limit.expired():
            return None
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="snapshot-") as folder:
            if not _copied(work, Path(folder), before, most_bytes) or listing(work, paths) != before:
                continue
            return _packed(Path(folder), sorted(before), target, most_bytes)
    log.warning("a checkpoint is being written all the time: not saved", paths=",".join(paths))
    return None


def unpack(archive: Path, work: Path, load: str) -> None:
    """Give a checkpoint to an evaluation: unpacked, or as one file where it asks for that. Raises OSError."""
    if load:
        shutil.copyfile(archive, work / load)
        return
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise OSError(f"the checkpoint cannot be unpacked: {error}") from None


def _files(work: Path, paths: Sequence[str]) -> Iterator[Path]:
    for one in paths:
        path = work / one
        if path.is_symlink():
            continue
        if path.is_dir():
            for folder, _, names in os.walk(path):
                yield from (Path(folder, name) for name in names)
        else:
            yield path


def _copied(work: Path, folder: Path, files: Listing, most_bytes: int) -> bool:
    """Whether all of them could be copied, each as long as it was."""
    for name, (size, _) in files.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(work / name, copy, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if copy.stat().st_size != size:
            return False
        most_bytes -= size
        if most_bytes < -(100 << 30):  # a safety for the disk: compression does not save that much
            return False
    return True


def _packed(folder: Path, names: Sequence[str], target: Path, most_bytes: int) -> str | None:
    digest = hashlib.sha256()
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for name in names:
            tar.add(folder / name, arcname=name, recursive=False)
            _add_to(digest, name, folder / name)
    size = target.stat().st_size
    if size > most_bytes:
        log.warning("a checkpoint is too large: not saved", bytes=size, limit=most_bytes)
        target.unlink()
        return None
    return digest.hexdigest()


def _add_to(digest: hashlib._Hash, name: str, file: Path) -> None:
    digest.update(f"{len(name)}:{name}{file.stat().st_size}:".encode())
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
