"""The termination message: one line of JSON that `kubectl describe pod` shows."""

from __future__ import annotations

import json
from pathlib import Path

from pilot import __version__
from pilot.values.events import events
from pilot.values.printable import line
from pilot.values.redaction import Redactor
from pilot.values.settings import Settings

log = events(__name__)

_KUBERNETES = "/dev/termination-log"
_MOST = 4096  # what Kubernetes keeps


def write_last_words(settings: Settings, exit_code: int, why: str, redactor: Redactor) -> None:
    """Write the message, where there is a file for it. Nothing depends on it, so a failure is only logged."""
    file = settings.termination_log or (_KUBERNETES if settings.in_pod else "")
    if not file or (not settings.termination_log and not Path(file).exists()):
        return
    words = {
        "exit_code": exit_code,
        "why": line(redactor.clean(why))[:1000],
        "queue": settings.queue,
        "pilot": __version__,
    }
    if settings.worker_id:
        words["worker"] = settings.worker_id
    try:
        Path(file).write_text((json.dumps(words) + "\n")[:_MOST], encoding="utf-8")
    except OSError as error:
        log.warning("no termination message", file=file, why=error.strerror)
