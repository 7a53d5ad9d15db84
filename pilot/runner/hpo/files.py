"""The files of an evaluation: its directory, what it is given, and what it leaves (hpo-contract.md 4.3, 10.6)."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.files import folder as files
from pilot.files import trees
from pilot.files.kept import KeptFile
from pilot.files.opening import open_beneath
from pilot.runner.area import JobArea
from pilot.runner.hpo import snapshot
from pilot.runner.hpo.book import Lease
from pilot.values.deadline import Deadline
from pilot.values.errors import PayloadNotStarted, TransferFailed
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.names import Lfn

log = events(__name__)

CONTEXT = "hpo_context.json"
STOP = "stop"

_COPY_S = 600.0
_REMOVE_S = 600.0


@dataclass(frozen=True, slots=True)
class Folder:
    """The directory of one attempt of one point, and its output, which lies elsewhere.

    ``work`` is where its evaluation starts; it lies below ``top``, whose path no evaluation can change.
    """

    root: Path
    work: Path
    top: Path
    stdout: KeptFile
    stderr: KeptFile

    @property
    def scratch(self) -> Path:
        """Its TMPDIR."""
        return self.root / "tmp"

    def open_work(self) -> files.Folder:
        """The directory that it works in, opened through no link. Raises OSError."""
        return files.Folder(open_beneath(str(self.top), str(self.work.relative_to(self.top))))

    def ask_to_stop(self) -> None:
        """Let an evaluation know that looks for it."""
        try:
            with self.open_work() as work:
                work.create(STOP, 0o644).close()
        except OSError as error:
            log.warning("an evaluation could not be told by file to stop", why=error.strerror)

    def clear(self) -> None:
        """Remove all but what it has printed."""
        for folder in (self.work, self.scratch):
            _remove(folder)

    def close(self) -> None:
        """Close its output."""
        self.stdout.close()
        self.stderr.close()


@dataclass(frozen=True, slots=True)
class Supplies:
    """What each evaluation is given beside its point.

    Args:
        inputs: the job's training data, by path.
        sandbox: the unpacked archive of the user's files; None without.
    """

    inputs: Sequence[Path]
    sandbox: Path | None


def supplies(asked: PointWork, inputs: Sequence[Lfn], area: JobArea) -> Supplies:
    """Unpack the sandbox, once for all. Raises TransferFailed for an archive that cannot be unpacked."""
    data = [area.work / lfn for lfn in inputs if lfn != asked.sandbox]
    if asked.sandbox is None:
        return Supplies(data, None)
    try:
        with area.fresh("sandbox") as folder:
            unpacked = folder.path
        with area.work_folder.open(asked.sandbox) as stream, tarfile.open(fileobj=stream) as tar:
            tar.extractall(unpacked, filter="data")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise TransferFailed(f"the sandbox {asked.sandbox} cannot be unpacked: {error}", "in") from None
    return Supplies(data, unpacked)


def prepare(folder: Folder, lease: Lease, asked: PointWork, given: Supplies, context: Mapping[str, Any]) -> None:
    """Make the directory, with all that the contract promises in it. Raises PayloadNotStarted.

    Data are linked where the evaluation sees our paths, and copied into a directory that it sees under another one.
    """
    own = folder.work.parent == folder.root
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.scratch.mkdir()
        _remove(folder.work)
        folder.work.mkdir()
        if given.sandbox is not None:
            _copy(given.sandbox, folder)
        for data in given.inputs:
            _bring(data, folder.work / data.name, link=own)
        if lease.checkpoint is not None:
            _resume(lease.checkpoint, folder.work, asked)
        _make_executable(asked.command, folder.work)
        _write(folder.work / asked.point_file, lease.point.parameters)
        for name, files in asked.data_lists.items():
            _write(folder.work / name, list(files))
        _write(folder.work / CONTEXT, {**context, "resume": lease.checkpoint is not None})
    except (OSError, ValueError) as error:
        raise PayloadNotStarted(f"the directory of point {lease.id} could not be made: {error}") from None


def _copy(sandbox: Path, folder: Folder) -> None:
    with files.Folder.at(sandbox) as source, folder.open_work() as work:
        if left := trees.copy(source.fd, work.fd, Deadline.after(_COPY_S)):
            raise OSError(f"the sandbox could not be copied: {left}")


def _remove(folder: Path) -> None:
    """A directory of an evaluation, whatever it looks like by now."""
    try:
        with files.Folder.at(folder.parent) as parent:
            left = parent.remove(folder.name, Deadline.after(_REMOVE_S))
    except OSError as error:
        left = str(error)
    if left:
        log.warning("left behind", path=folder, why=left)


def _make_executable(command: str, work: Path) -> None:
    """The evaluation's program, if it is a file of the sandbox, as the wrapper does: phpo does not keep its mode."""
    name = command.split(maxsplit=1)[0].removeprefix("./") if command.split() else ""
    program = work / name
    if name and "/" not in name and program.is_file() and not program.is_symlink():
        program.chmod(program.stat().st_mode | 0o111)


def _bring(data: Path, target: Path, *, link: bool) -> None:
    if target.is_symlink() or target.exists():
        return
    if link:
        target.symlink_to(data)
    elif data.is_file():
        shutil.copy2(data, target)


def _resume(checkpoint: Path, work: Path, asked: PointWork) -> None:
    """A checkpoint that cannot be read costs the steps it stands for, and not the point."""
    load = asked.checkpoints.load if asked.checkpoints is not None else ""
    try:
        snapshot.unpack(checkpoint, work, load)
    except OSError as error:
        log.warning("a checkpoint is not used", file=checkpoint.name, why=str(error))


def _write(file: Path, value: Any) -> None:
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(file)
