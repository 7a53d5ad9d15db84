"""Log events: a sentence and keys, rendered as one line of text or of JSON, with secrets taken out.

The handlers are made by ``pilot.agent.logs``; every module logs through `events(__name__)`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

from pilot.values.printable import block, line, lines
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


class TextFormatter(logging.Formatter):
    """``2026-11-22T10:00:00Z INFO  stored file=words.txt bytes=12``.

    Secrets are taken out of each value before it is quoted; none can end the line, or begin another.
    """

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The event as a line; a traceback follows on lines of its own, which no event looks like."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        parts = [stamp, f"{record.levelname:<7}", line(self._redactor.clean(record.getMessage()))]
        parts += [f"{key}={_shown(value)}" for key, value in self._keys(record).items()]
        traceback = self._traceback(record).splitlines()
        return "\n".join([" ".join(parts), *(f"  | {one}" for one in traceback)])

    def _keys(self, record: logging.LogRecord) -> dict[str, Any]:
        """The event's keys, without what is not known, as values of JSON without secrets."""
        keys = getattr(record, "keys", {})
        return {line(key): lines(self._redactor.value(_plain(one))) for key, one in keys.items() if one is not None}

    def _traceback(self, record: logging.LogRecord) -> str:
        return block(self._redactor.clean(self.formatException(record.exc_info))) if record.exc_info else ""


class JsonFormatter(TextFormatter):
    """One object per line: time, level, source, event, and the keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The event as a JSON object."""
        entry: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "source": record.name,
            "event": line(self._redactor.clean(record.getMessage())),
            **self._keys(record),
        }
        if record.exc_info:
            entry["traceback"] = self._traceback(record)
        return json.dumps(entry)


def _plain(value: Any) -> Any:
    """A value as JSON has it: what it has not is text."""
    match value:
        case bool() | int() | float() | None:
            return value
        case str():
            return str(value)
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
    return str(value)


def _shown(value: Any) -> str:
    """A value in a line of text: as JSON where it would not be one word."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text) if re.search(r"[\s\"=]", text) or not text else text
