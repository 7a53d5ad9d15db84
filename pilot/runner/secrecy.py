"""What is to be hidden of a job: its secrets, those that stand in its URLs, and the payload's credentials.

A copy of the secrets lies beside the journal, in the pilot's own directory: the payload may have deleted its file, and
the next life of the pilot sends what this payload has printed.
"""

from __future__ import annotations

import json
from contextlib import closing, suppress
from pathlib import Path

from pilot.files.opening import read_file
from pilot.runner.area import JobArea
from pilot.values.decoding import decode_json
from pilot.values.errors import Garbled
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.redaction import Redactor

log = events(__name__)

_NAME = "secrets.json"
_MOST_BYTES = 8 << 20


def hide(job: Job, area: JobArea, redactor: Redactor) -> None:
    """Hide a job's secrets from now on, in the next life as well."""
    redactor.begin_job(job.secrets.values(), [str(url) for file in job.inputs for url in file.urls])
    if not job.secrets:
        return
    try:
        with closing(area.own.create(_NAME)) as file:
            file.append(json.dumps(list(job.secrets.values())).encode())
    except OSError as error:
        log.warning("the secrets are not kept for a next life", why=error.strerror)


def hide_again(area: JobArea, redactor: Redactor) -> None:
    """The same in the next life, as far as the copy is still there and can be read."""
    try:
        found = decode_json(read_file(_NAME, at=area.own.fd, most_bytes=_MOST_BYTES))
    except FileNotFoundError:
        found = []
    except (OSError, Garbled) as error:
        log.warning("the job's secrets are not known any more", why=str(error))
        found = []
    redactor.begin_job(found if isinstance(found, list) else [found])


def hide_file(path: str, redactor: Redactor) -> None:
    """Hide a credential that is lent to the payload, which it may print."""
    with suppress(OSError):
        redactor.learn_of_job(Path(path).read_text("utf-8", "replace"))
