"""The pilot's log on stdout: lines that ``kubectl logs`` can show, text or JSON."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pilot.values.events import JsonFormatter, Redactor, TextFormatter
from pilot.values.settings import Settings


def copy_to(file: Path, redactor: Redactor) -> None:
    """Write the events into ``file`` too, behind what an earlier life has left there."""
    handler = logging.FileHandler(file, encoding="utf-8", errors="replace")
    handler.setFormatter(TextFormatter(redactor))
    logging.getLogger("pilot").addHandler(handler)


def configure(settings: Settings, redactor: Redactor) -> None:
    """Send the pilot's events to stdout, in the format and from the level that the settings name."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter((JsonFormatter if settings.log_format == "json" else TextFormatter)(redactor))
    logger = logging.getLogger("pilot")
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False
    logger.addHandler(handler)
