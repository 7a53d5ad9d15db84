"""`pilot recover`: the last word on a job whose pilot is no more; with ``--wait``, the sidecar that outlives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pilot.agent import configuration
from pilot.agent.inheritance import inherited
from pilot.agent.logs import configure
from pilot.agent.signals import Asked, signals
from pilot.agent.volume import await_open_job
from pilot.runner.journal import Kind
from pilot.runner.past import story_of
from pilot.values.events import events
from pilot.values.redaction import Redactor
from pilot.values.settings import Resolved

log = events(__name__)

_CODES = """\b
Exit codes:
  0   the job's end is known to the server, or there was no open job
  1   the server could not be told; the journal keeps the job
  64  the scratch directory cannot be used
  78  wrong settings or arguments
  80  credentials missing, expired or refused"""


@click.command("recover", epilog=_CODES)
@click.option("--work", metavar="DIR", help="the pilot's scratch directory  [as `pilot run` takes it]")
@click.option("--wait", is_flag=True, help="wait for the pilot's end first: for a sidecar beside it")
@click.option("--server", metavar="URL", help="base URL of the PanDA server  [the pilot's own]")
@click.option("--config", metavar="FILE", help="settings file  [/etc/pilot/pilot.yaml, if there is one]")
@click.pass_obj
def command(redactor: Redactor, /, config: str | None, wait: bool, **flags: Any) -> int:
    """Bring a job that a killed pilot has left to its one end.

    Its payload is never run again. Where it had ended well, its outputs are stored and the job has finished; else
    what is left of it is ended, and the job has failed. The pilot's settings are taken from its journal, where
    flags, environment and settings file say nothing else; but a payload can write there, so credentials go only to
    a server that is named here.
    """
    own = configuration.load(flags, config)
    configure(own.settings, redactor)
    with signals(in_pod=own.settings.in_pod) as asked:
        return _recover(own, flags, config, redactor, asked, wait=wait)


def _recover(
    own: Resolved, flags: dict[str, Any], config: str | None, redactor: Redactor, asked: Asked, *, wait: bool
) -> int:
    first = own.settings
    work = Path(first.work).absolute()
    journal = await_open_job(work, asked, first.grace, wait=wait)
    if journal is None:
        log.info("no open job", work=work)
        return 0
    from pilot.agent.equipment import equipped, of_this_server  # noqa: PLC0415 - heavy, and a sidecar waits for long
    from pilot.agent.site import site_now  # noqa: PLC0415
    from pilot.runner.recovery import recover  # noqa: PLC0415

    with journal:
        story = story_of(journal)
        below = {**inherited(story.settings, own, work), "log_format": first.log_format, "log_level": first.log_level}
        resolved = configuration.load({**flags, "work": first.work}, config, below)
        around = configuration.surroundings(resolved)
        with equipped(resolved.settings, work, around, redactor, asked, journal) as pod:
            story = story if story.open is not None else of_this_server(story, pod.settings)
            told = recover(story, pod.probe(), pod, site_now)
        if told:
            journal.write(Kind.LEFT, code=0)
    return 0 if told else 1
