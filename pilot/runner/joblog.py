"""The pilot's log of one job: what the pilot logs while the job lasts, also into a file of the job."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pilot.values.events import Redactor, TextFormatter, events

log = events(__name__)


@contextlib.contextmanager
def job_log(file: Path, redactor: Redactor) -> Iterator[None]:
    """Copy the pilot's log into ``file`` while the block lasts; no job fails for a log that cannot be written."""
    try:
        handler = logging.FileHandler(file, encoding="utf-8", errors="replace")
    except OSError as error:
        log.warning("the job has no log of its own", file=file, why=error.strerror)
        yield
        return
    handler.setLevel(logging.INFO)
    handler.setFormatter(TextFormatter(redactor))
    root = logging.getLogger("pilot")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk has not taken is tried once more
            handler.close()
