"""Log events: a sentence and keys, rendered as one line of text or of JSON, with secrets taken out.

The handlers are made by ``pilot.agent.logs``; every module logs through `events(__name__)`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

from pilot.values.redaction import Redactor

__all__ = ["Events", "JsonFormatter", "Redactor", "TextFormatter", "events"]


class Events:
    """A named source of events; the keyword arguments are the event's keys."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, text: str, **keys: object) -> None:
        """For those who look for a fault in the pilot."""
        self._logger.debug(text, extra={"keys": keys})

    def info(self, text: str, **keys: object) -> None:
        """The story of a job, 30 lines at most."""
        self._logger.info(text, extra={"keys": keys})

    def warning(self, text: str, **keys: object) -> None:
        """Something went wrong that the pilot can live with."""
        self._logger.warning(text, extra={"keys": keys})

    def crash(self, text: str, error: BaseException) -> None:
        """A fault of the pilot itself, with its traceback."""
        self._logger.error(text, exc_info=error, extra={"keys": {"why": f"{type(error).__name__}: {error}"}})

    def error(self, text: str, **keys: object) -> None:
        """Something went wrong that a job, or the pilot, dies of."""
        self._logger.error(text, extra={"keys": keys})


def events(name: str) -> Events:
    """The events of one module."""
    return Events(name)


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


class TextFormatter(logging.Formatter):
    """``2026-11-22T10:00:00Z INFO  stored file=words.txt bytes=12``."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The event as a line; a traceback follows on lines of its own."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        keys = getattr(record, "keys", {})
        parts = [stamp, f"{record.levelname:<7}", record.getMessage()]
        parts += [f"{key}={_shown(value)}" for key, value in keys.items() if value is not None]
        line = self._redactor.clean(_one_line(" ".join(parts)))
        if record.exc_info:
            line += "\n" + self._redactor.clean(self.formatException(record.exc_info))
        return line


class JsonFormatter(TextFormatter):
    """One object per line: time, level, source, event, and the keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The event as a JSON object."""
        entry: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "source": record.name,
            "event": record.getMessage(),
            **{key: value for key, value in getattr(record, "keys", {}).items() if value is not None},
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return self._redactor.clean(json.dumps(entry, default=str))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return json.dumps(text) if re.search(r"[\s\"=]", text) or not text else text
