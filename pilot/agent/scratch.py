"""The scratch directory of a pilot, and the files of its own in it."""

from __future__ import annotations

from pathlib import Path

from pilot.values.errors import SiteError
from pilot.values.settings import Settings

LOG_NAME = "pilot.log"
"""The pilot's whole log: what is uploaded to the cache."""

ALIVE_NAME = "heartbeat"
"""The file that a living pilot touches every `ALIVE_EVERY_S` seconds, and that a probe looks at."""

ALIVE_EVERY_S = 60.0

DRAIN_NAME = "drain"
"""While this file is there, no job is taken (setting ``drain_file``)."""


def make_scratch(settings: Settings) -> Path:
    """The directory, absolute, made if it is missing. Raises SiteError if it cannot be written."""
    work = Path(settings.work).absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
        probe_file = work / ".pilot-writes-here"
        probe_file.write_bytes(b"")
        probe_file.unlink()
    except OSError as error:
        raise SiteError(f"scratch directory {work} cannot be used: {error}") from None
    return work
