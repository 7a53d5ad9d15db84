"""Snapshots: a checkpoint as one tarball, consistent although its evaluation may be writing it (hpo-contract.md 4.4).

The files are copied, and listed before and after: a copy counts only if nothing has changed meanwhile. Their
content decides whether anything is sent, not the time of a tarball.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pilot.files.folder import Folder, reader
from pilot.files.opening import folder_of, open_file, open_folder
from pilot.values.deadline import Deadline
from pilot.values.events import events

log = events(__name__)

_TRIES = 3
_PIECE = 1 << 20
_LOOK_S = 60.0

Listing = dict[str, tuple[int, int]]
"""Size and time of change (ns) of each file, by its path below the evaluation's directory."""


def listing(work: Folder, paths: Sequence[str]) -> Listing:
    """The files that there are of these paths, each by its own name; links and what is no file are left out.

    A hard link counts as long as all names of its file are among them: others are not the evaluation's to give away.
    """
    found = {path: status for one in paths for path, status in _files(work, one)}
    names = Counter((status.st_dev, status.st_ino) for status in found.values())
    own = {path: one for path, one in found.items() if one.st_nlink <= names[one.st_dev, one.st_ino]}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in own.items()}


def pack(
    open_work: Callable[[], Folder], paths: Sequence[str], target: Path, most_bytes: int, limit: Deadline
) -> str | None:
    """Write the tarball ``target``, and return the digest of its content.

    None where there is nothing to save, where it is larger than ``most_bytes``, or where the files changed each
    time that they were copied. Raises OSError.
    """
    with open_work() as work:
        for _ in range(_TRIES):
            before = listing(work, paths)
            if not before or limit.expired():
                return None
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="snapshot-") as folder:
                copies = _copied(work, Path(folder), before, most_bytes)
                if copies is not None and listing(work, paths) == before:
                    return _packed(copies, target, most_bytes)
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


def _files(work: Folder, path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files at a path, or below it, as they are now."""
    try:
        with folder_of(path, at=work.fd) as (at, name):
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield path, status
            if not stat.S_ISDIR(status.st_mode):
                return
            top = open_folder(name, at=at)
    except OSError:
        return
    with Folder(top) as folder:
        for found in folder.walk(Deadline.after(_LOOK_S)):
            if found.is_file:
                yield f"{path}/{found.path}", found.status


def _copied(work: Folder, folder: Path, files: Listing, most_bytes: int) -> dict[str, Path] | None:
    """Copies of all of them, by their names; None if one was not as long as it was."""
    copies: dict[str, Path] = {}
    for number, (name, (size, _)) in enumerate(sorted(files.items())):
        copies[name] = folder / str(number)
        try:
            with (
                folder_of(name, at=work.fd) as (at, last),
                reader(open_file(last, at=at, links=0)) as source,
                copies[name].open("wb") as copy,
            ):
                shutil.copyfileobj(source, copy, _PIECE)
        except FileNotFoundError:
            return None
        if copies[name].stat().st_size != size:
            return None
        most_bytes -= size
        if most_bytes < -(100 << 30):  # a safety for the disk: compression does not save that much
            return None
    return copies


def _packed(copies: Mapping[str, Path], target: Path, most_bytes: int) -> str | None:
    digest = hashlib.sha256()
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for name, copy in copies.items():
            tar.add(copy, arcname=name, recursive=False)
            _add_to(digest, name, copy)
    size = target.stat().st_size
    if size > most_bytes:
        log.warning("a checkpoint is too large: not saved", bytes=size, limit=most_bytes)
        target.unlink()
        return None
    return digest.hexdigest()


def _add_to(digest: hashlib._Hash, name: str, file: Path) -> None:
    shown = os.fsencode(name)
    digest.update(f"{len(name)}:".encode() + shown + f"{file.stat().st_size}:".encode())
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
