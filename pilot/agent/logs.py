"""The pilot's log on stdout: lines that ``kubectl logs`` can show, text or JSON."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

from pilot.files.opening import open_file
from pilot.values.events import JsonFormatter, TextFormatter, events
from pilot.values.redaction import Redactor
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


def log_without_handler(redactor: Redactor) -> None:
    """What is logged, or fails in a thread, before there is a log or without one goes to stderr, like the rest."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(TextFormatter(redactor))
    threading.excepthook = _thread_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        log.crash(f"thread {failed.thread.name if failed.thread else ''} failed", failed.exc_value)


def configure(settings: Settings, redactor: Redactor) -> None:
    """Send the pilot's events to stdout, in the format and from the level that the settings name."""
    logging.raiseExceptions = False  # a disk that is full takes no log; a traceback for each line of it helps nobody
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter((JsonFormatter if settings.log_format == "json" else TextFormatter)(redactor))
    logger = logging.getLogger("pilot")
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False
    logger.addHandler(handler)
