"""The pilot's log of one job: what the pilot logs while the job lasts, also into a file of the job."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from pilot.files.kept import KeptFile
from pilot.values.events import Redactor, TextFormatter


@contextlib.contextmanager
def job_log(file: KeptFile, redactor: Redactor) -> Iterator[None]:
    """Copy the pilot's log into ``file`` while the block lasts; no job fails for a log that cannot be written."""
    handler = _Handler(file)
    handler.setLevel(logging.INFO)
    handler.setFormatter(TextFormatter(redactor))
    root = logging.getLogger("pilot")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, file: KeptFile) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a disk that is full takes no log
            self._file.append((self.format(record) + "\n").encode("utf-8", "replace"))
