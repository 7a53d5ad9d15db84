"""The pilot's log of one job: what the pilot logs while the job lasts, also into a file of the job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilot.values.events import Redactor, TextFormatter


@contextmanager
def job_log(file: Path, redactor: Redactor) -> Iterator[None]:
    """Copy the pilot's log into ``file`` while the block lasts."""
    handler = logging.FileHandler(file, encoding="utf-8", errors="replace")
    handler.setLevel(logging.INFO)
    handler.setFormatter(TextFormatter(redactor))
    root = logging.getLogger("pilot")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
