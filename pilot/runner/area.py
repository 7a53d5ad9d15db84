"""The directories and files of one job on the scratch volume."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pilot.payload.process import last_line
from pilot.values.deadline import Deadline
from pilot.values.errors import NoWorkDirectory
from pilot.values.events import events

log = events(__name__)


def _left(error: OSError) -> None:
    log.warning("left behind", path=error.filename, why=error.strerror)


def _delete(path: Path) -> None:
    """A file, a link, or a directory that is empty."""
    try:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    except OSError as error:
        _left(error)


@dataclass(frozen=True, slots=True)
class JobArea:
    """``root`` is the pilot's; ``work`` below it is the payload's working directory, ``scratch`` its TMPDIR."""

    root: Path

    @classmethod
    def choose(cls, volume: Path, job_id: int, attempt: int) -> JobArea:
        """A name that no earlier life has used; nothing is made."""
        return cls(volume / f"job-{job_id}-{attempt}-{secrets.token_hex(4)}")

    def make(self) -> None:
        """Make the directories. Raises NoWorkDirectory."""
        try:
            self.root.mkdir(mode=0o700)
            self.work.mkdir()
            self.scratch.mkdir()
            self.pilot_log.touch()
        except OSError as error:
            raise NoWorkDirectory(f"no directory for a job in {self.root.parent}: {error.strerror}") from error

    @property
    def work(self) -> Path:
        """Where the payload starts, its inputs lie and its outputs are looked for."""
        return self.root / "work"

    @property
    def scratch(self) -> Path:
        """The payload's TMPDIR."""
        return self.root / "tmp"

    @property
    def pilot_log(self) -> Path:
        """The pilot's log of this job."""
        return self.root / "pilot.log"

    @property
    def stdout(self) -> Path:
        """The payload's standard output."""
        return self.root / "payload.stdout"

    @property
    def stderr(self) -> Path:
        """The payload's standard error."""
        return self.root / "payload.stderr"

    @property
    def usage(self) -> Path:
        """The samples of what the payload used, one JSON object a line."""
        return self.root / "usage.jsonl"

    @property
    def report(self) -> Path:
        """The job report, as JSON."""
        return self.root / "job_report.json"

    def evaluations(self) -> list[Path]:
        """What the evaluations of a hyper-parameter job have printed."""
        return sorted(file for file in self.root.glob("points/*/std*") if file.is_file() and not file.is_symlink())

    def stderr_line(self) -> str:
        """The payload's last words: the last line of its standard error, "" if there is none."""
        return last_line(self.stderr)

    def remove(self, limit: Deadline) -> None:
        """Delete it all; what cannot be deleted, or not by ``limit``, is said and left."""
        for folder, folders, files in os.walk(self.root, topdown=False, onerror=_left):
            for name in (*files, *folders):
                if limit.expired():
                    log.warning("left behind: there is no time to delete it", path=self.root)
                    return
                _delete(Path(folder, name))
        _delete(self.root)
