"""`pilot probe --alive`: for a liveness probe."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pilot.agent import configuration
from pilot.agent.scratch import ALIVE_EVERY_S, ALIVE_NAME
from pilot.values.errors import PilotError, UsageError

_MISSED = 3
"""So many signs of life in a row may be missing."""


@click.command("probe")
@click.option("--alive", is_flag=True, help="exit 0 if the pilot on this scratch directory has given a sign of life")
@click.option("--work", metavar="DIR", help="the pilot's scratch directory  [as `pilot run` takes it]")
def command(alive: bool, work: str | None) -> int:
    """Tell whether the pilot in this pod is alive: it touches a file each minute."""
    if not alive:
        raise UsageError("probe: --alive is all that it can tell yet")
    file = Path(configuration.load({"work": work}).settings.work) / ALIVE_NAME
    try:
        age_s = time.time() - file.stat().st_mtime
    except OSError as error:
        raise PilotError(f"no sign of life: {file}: {error.strerror}") from None
    if age_s > _MISSED * ALIVE_EVERY_S:
        raise PilotError(f"the last sign of life is {age_s:.0f} s old: {file}")
    return 0
