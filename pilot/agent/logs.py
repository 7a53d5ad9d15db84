"""The pilot's log on stdout: lines that ``kubectl logs`` can show, text or JSON."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from pilot.files.opening import open_file
from pilot.values.events import JsonFormatter, Redactor, TextFormatter, events
from pilot.values.settings import Settings

log = events(__name__)


def copy_to(file: Path, redactor: Redactor) -> None:
    """Write the events into ``file`` too, behind what an earlier life has left there."""
    try:
        descriptor = open_file(str(file), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        log.warning("the log has no copy", file=file, why=error.strerror)
        return
    handler = logging.StreamHandler(os.fdopen(descriptor, "a", encoding="utf-8", errors="replace"))
    handler.setFormatter(TextFormatter(redactor))
    logging.getLogger("pilot").addHandler(handler)


def configure(settings: Settings, redactor: Redactor) -> None:
    """Send the pilot's events to stdout, in the format and from the level that the settings name."""
    logging.raiseExceptions = False  # a disk that is full takes no log; a traceback for each line of it helps nobody
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter((JsonFormatter if settings.log_format == "json" else TextFormatter)(redactor))
    logger = logging.getLogger("pilot")
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False
    logger.addHandler(handler)
