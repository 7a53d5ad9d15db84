"""The payload's environment, built from nothing: what is not named here does not get in (promise P6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilot.values.job import Job

INHERITED = ("PATH", "LANG", "LC_ALL", "TZ")
"""The only variables that come from the pilot's own environment."""

_DEFAULTS = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def payload_environment(
    job: Job,
    work: Path,
    scratch: Path,
    inherited: Mapping[str, str],
    queue: Mapping[str, str],
    credentials: Mapping[str, str],
) -> dict[str, str]:
    """Later ones win: defaults, inherited, the queue's, the job's, and at last what the pilot must set.

    Args:
        job: brings its own, already checked names and values.
        work: the directory that the payload starts in, also its HOME.
        scratch: its TMPDIR.
        inherited: the pilot's environment, of which `INHERITED` is taken.
        queue: ``environ`` of the queue data.
        credentials: variables with the paths of the payload's own credentials; never the pilot's.
    """
    return {
        **_DEFAULTS,
        **{name: inherited[name] for name in INHERITED if inherited.get(name)},
        **queue,
        **job.environment,
        **credentials,
        "HOME": str(work),
        "PWD": str(work),
        "TMPDIR": str(scratch),
        "PANDAID": str(job.id),
        "PILOT_CORES": str(job.cores),
    }
