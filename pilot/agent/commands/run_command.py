"""`pilot run`: the entrypoint of a pilot's pod."""

from __future__ import annotations

from typing import Any

import click

from pilot.agent import configuration
from pilot.agent.lastwords import write_last_words
from pilot.agent.logs import configure, copy_to
from pilot.agent.saying import say
from pilot.agent.scratch import LOG_NAME, make_scratch
from pilot.agent.signals import Asked, signals
from pilot.values.errors import PilotError
from pilot.values.redaction import Redactor
from pilot.values.settings import Resolved, names

_CODES = """\b
Exit codes:
  0   done, stopped in order, or no job; a failed payload is not a failed pilot
  1   the pilot's own fault, or a final that could not be delivered
  2   stuck, ended hard by its own watchdog
  64  this site, queue or node cannot run jobs
  78  wrong settings or arguments
  80  credentials missing, expired or refused"""


@click.command("run", epilog=_CODES)
@click.option("--server", metavar="URL", help="base URL of the PanDA server  [http://127.0.0.1:25080]")
@click.option("--queue", metavar="NAME", help="PanDA queue  [LOCAL]")
@click.option("--work", metavar="DIR", help="scratch directory, made if missing  [pilot-work]")
@click.option("--max-jobs", type=int, metavar="N", help="take at most N jobs  [one, more within the timefloor]")
@click.option("--idle", type=float, metavar="SECONDS", help="leave after so long without a job  [300]")
@click.option("--job", metavar="FILE", help="push mode: exactly the job in FILE")
@click.option("--disk-limit", type=float, metavar="MIB", help="use no more scratch than that  [what is free]")
@click.option("--config", metavar="FILE", help="settings file  [/etc/pilot/pilot.yaml, if there is one]")
@click.option("--show-settings", is_flag=True, help="print all settings, and where each came from, and leave")
@click.pass_obj
def command(redactor: Redactor, /, config: str | None, show_settings: bool, **flags: Any) -> int:
    """Take jobs from a PanDA server and run them.

    Everything can also be set in the settings file or by PILOT_<SETTING> in the environment; flags win.
    """
    resolved = configuration.load(flags, config)
    if show_settings:
        _show(resolved, redactor)
        return 0
    configure(resolved.settings, redactor)
    with signals(in_pod=resolved.settings.in_pod) as asked:
        return _live(resolved, redactor, asked)


def _live(resolved: Resolved, redactor: Redactor, asked: Asked) -> int:
    """The pilot's life, and the termination message at its end, however it ends."""
    # requests and its kin are needed from here on
    from pilot.agent.agent import run_pilot  # noqa: PLC0415
    from pilot.agent.volume import take  # noqa: PLC0415

    settings = resolved.settings
    code, why = 1, "internal error"
    try:
        work = make_scratch(settings)
        copy_to(work / LOG_NAME, redactor)
        with take(work, asked) as journal:
            code = run_pilot(settings, work, configuration.surroundings(resolved), redactor, asked, journal)
        why = "done" if code == 0 else "a final was not delivered"
    except PilotError as error:
        code, why = error.exit_code, str(error)
        raise
    finally:
        write_last_words(settings, code, why, redactor)
    return code


def _show(resolved: Resolved, redactor: Redactor) -> None:
    """One setting per line: name, value, origin. Of a secret only the path is told; a URL may hold one all the same."""
    width = max(len(name) for name in names())
    for name in names():
        value = getattr(resolved.settings, name)
        say(f"{name:<{width}}  {redactor.clean(_shown(value)):<40}  {resolved.origins[name]}")


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
