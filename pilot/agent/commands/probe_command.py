"""`pilot probe`: what the pod has; with `--alive`, for a liveness probe."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pilot.agent import configuration
from pilot.agent.saying import say_json
from pilot.agent.scratch import ALIVE_EVERY_S, ALIVE_NAME
from pilot.values.errors import PilotError, UsageError
from pilot.values.settings import Resolved

_MISSED = 3
"""So many signs of life in a row may be missing."""

_CODES = """\b
Exit codes:
  0   it could be told; with --alive: the pilot lives
  1   with --alive: no sign of life
  64  the scratch directory cannot be used
  78  wrong settings or arguments"""


@click.command("probe", epilog=_CODES)
@click.option("--work", metavar="DIR", help="the pilot's scratch directory  [as `pilot run` takes it]")
@click.option("--disk-limit", type=float, metavar="MIB", help="what may be used of it  [all that is free]")
@click.option("--config", metavar="FILE", help="settings file  [/etc/pilot/pilot.yaml, if there is one]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, and nothing else")
@click.option("--watch", is_flag=True, help="show what is used, again and again, until Ctrl-C")
@click.option("--interval", type=click.FloatRange(0.1), default=2.0, metavar="SECONDS", help="with --watch  [2]")
@click.option("--alive", is_flag=True, help="exit 0 if the pilot on this scratch directory has given a sign of life")
def command(
    work: str | None,
    disk_limit: float | None,
    config: str | None,
    as_json: bool,
    watch: bool,
    interval: float,
    alive: bool,
) -> int:
    """Tell what a job can be given here, cores, memory, scratch and GPUs, and where each figure comes from."""
    if as_json + watch + alive > 1:
        raise UsageError("probe: --json, --watch and --alive exclude each other")
    resolved = configuration.load({"work": work, "disk_limit": disk_limit}, config)
    if alive:
        return _alive(Path(resolved.settings.work))
    return _tell(resolved, interval if watch else None, as_json=as_json)


def _alive(work: Path) -> int:
    """The pilot touches a file each minute."""
    file = work / ALIVE_NAME
    try:
        age_s = time.time() - file.stat().st_mtime
    except OSError as error:
        raise PilotError(f"no sign of life: {file}: {error.strerror}") from None
    if age_s > _MISSED * ALIVE_EVERY_S:
        raise PilotError(f"the last sign of life is {age_s:.0f} s old: {file}")
    return 0


def _tell(resolved: Resolved, every_s: float | None, *, as_json: bool) -> int:
    # a liveness probe does without
    from pilot.agent import probing, watching  # noqa: PLC0415
    from pilot.resources.disk import check_usable  # noqa: PLC0415
    from pilot.resources.given import Given  # noqa: PLC0415
    from pilot.resources.probe import probe  # noqa: PLC0415

    work = Path(resolved.settings.work).absolute()
    check_usable(work)
    given = Given.of(resolved.settings, resolved.origins)
    visible = configuration.visible_gpus()
    found = probe(work, given=given, visible=visible)
    if as_json:
        say_json(probing.as_json(found), indent=2)
        return 0
    probing.show(found)
    if every_s is not None:
        watching.watch(watching.Usage(found, work, given, visible), every_s)
    return 0
