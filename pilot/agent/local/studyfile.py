"""Study files (`pilot.values.study`), and what is sent with one: the user's files in an archive, training data."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.agent.local.jobfile import found, name_of, read_content
from pilot.values.errors import UsageError
from pilot.values.study import Study, parse_study

_MARKS = ("search_space", "searchSpace", "opt_space", "study", "maxPoints")
_LEFT_OUT = ("__pycache__",)
_MOST_BYTES = 200 << 20  # what is read into memory; the server takes less


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study as a user wrote it.

    Args:
        study: what is in the file.
        archive: the name that its sandbox is kept under, made from its content; "" without one.
        sandbox: the archive.
        local: training data on this machine, by name.
        remote: URLs of the rest, by name.
    """

    study: Study
    archive: str
    sandbox: bytes
    local: dict[str, Path]
    remote: dict[str, str]

    def in_place(self) -> dict[str, Any]:
        """The submission with local data as ``file:`` URLs: for a pilot on this machine."""
        return self._submission(lambda path: path.as_uri())

    def uploaded(self, upload: Callable[[Path], str]) -> dict[str, Any]:
        """The submission with each local file replaced by the URL that ``upload`` gives for it."""
        return self._submission(upload)

    def _submission(self, place: Callable[[Path], str]) -> dict[str, Any]:
        local = [{"name": name, "url": place(path), "size": path.stat().st_size} for name, path in self.local.items()]
        remote = [{"name": name, "url": url} for name, url in self.remote.items()]
        return {"study": self.study.as_json(), "archive": self.archive, "inputs": local + remote}


def is_study(content: Any) -> bool:
    """Whether the content of a file is a study, and no job."""
    return isinstance(content, dict) and any(key in content for key in _MARKS)


def read_study_file(file: Path, leave_out: Path | None = None) -> StudyFile:
    """Read a study file and pack its sandbox, less the directory ``leave_out``.

    Raises UsageError that names the file, the key and what to do.
    """
    content = read_content(file)
    if isinstance(content, dict) and not is_study(content) and ("command" in content or "PandaID" in content):
        raise UsageError(f"{file}: this is a job, and no study: run it with `pilot try`")
    try:
        study = parse_study(content)
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    members = list(_members(file, study.evaluation.sandbox, leave_out))
    sandbox = _packed(file, members) if members else b""
    digest = hashlib.sha256(sandbox).digest()
    local, remote = _inputs(file, study.evaluation.inputs)
    return StudyFile(study, f"jobO.{uuid.UUID(bytes=digest[:16])}.tar" if members else "", sandbox, local, remote)


def _members(file: Path, names: tuple[str, ...], leave_out: Path | None) -> Iterator[tuple[str, Path]]:
    """What goes into the archive, by the name that it has there: each under its own last name."""
    seen: set[str] = set()
    for name in names:
        path = found(file.parent, name)
        if path is None:
            raise UsageError(f"{file}: evaluation.sandbox: {name[:200]}: there is no such file beside the study file")
        if path.name in seen:
            raise UsageError(f"{file}: evaluation.sandbox: two of them are called {path.name}")
        seen.add(path.name)
        for one in _files(path, leave_out):
            yield str(Path(path.name) / one.relative_to(path)), one


def _files(path: Path, leave_out: Path | None) -> Iterator[Path]:
    """A file itself, or the files below a directory; links to directories are not followed."""
    if path.is_file():
        yield path
        return
    out = leave_out.resolve() if leave_out else None
    for folder, below, names in os.walk(path):
        below[:] = sorted(one for one in below if one not in _LEFT_OUT and Path(folder, one) != out)
        yield from (one for one in (Path(folder, name) for name in sorted(names)) if os.path.isfile(one))  # noqa: PTH113 - Path.is_file raises where we may not look


def _packed(file: Path, members: list[tuple[str, Path]]) -> bytes:
    """The archive: the same files make the same bytes."""
    if sum(path.stat().st_size for _, path in members) > _MOST_BYTES:
        raise UsageError(f"{file}: evaluation.sandbox: too large: name training data under evaluation.inputs")
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, path in members:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UsageError(f"{file}: evaluation.sandbox: {path}: {error.strerror or error}") from None
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _inputs(file: Path, given: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, str]]:
    """Training data: files of this machine, and URLs."""
    local: dict[str, Path] = {}
    remote: dict[str, str] = {}
    for one in given:
        name = name_of(one)
        if name in local or name in remote:
            raise UsageError(f"{file}: evaluation.inputs: two of them are called {name}")
        if "://" in one:
            remote[name] = one
            continue
        path = found(file.parent, one)
        if path is None or not path.is_file():
            raise UsageError(f"{file}: evaluation.inputs: {one[:200]}: there is no such file beside the study file")
        local[name] = path
    return local, remote
