"""The directories and files of one job on the scratch volume."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pilot.payload.process import last_line
from pilot.values.errors import NoWorkDirectory
from pilot.values.events import events

log = events(__name__)


@dataclass(frozen=True, slots=True)
class JobArea:
    """``root`` is the pilot's; ``work`` below it is the payload's working directory, ``scratch`` its TMPDIR."""

    root: Path

    @classmethod
    def make(cls, volume: Path, job_id: int, attempt: int) -> JobArea:
        """Make a fresh area: one that an earlier life left behind is not touched. Raises NoWorkDirectory."""
        try:
            area = cls(Path(tempfile.mkdtemp(prefix=f"job-{job_id}-{attempt}-", dir=volume)))
            area.work.mkdir()
            area.scratch.mkdir()
            area.pilot_log.touch()
        except OSError as error:
            raise NoWorkDirectory(f"no directory for a job in {volume}: {error.strerror}") from error
        return area

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
    def report(self) -> Path:
        """The job report, as JSON."""
        return self.root / "job_report.json"

    def stderr_line(self) -> str:
        """The payload's last words: the last line of its standard error, "" if there is none."""
        return last_line(self.stderr)

    def remove(self) -> None:
        """Delete it all; what cannot be deleted is said and left."""
        shutil.rmtree(self.root, onerror=lambda _call, path, info: log.warning("left behind", path=path, why=info[1]))
