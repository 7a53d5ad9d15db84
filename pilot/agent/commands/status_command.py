"""`pilot status`: ask an embedded server what became of a job or a study."""

from __future__ import annotations

import shutil

import click

from pilot.agent.local.api import LocalServer
from pilot.agent.local.board import study_lines
from pilot.agent.local.view import describe
from pilot.agent.saying import say, say_json
from pilot.values.errors import UsageError


@click.command("status")
@click.argument("job_id", metavar="[ID]", type=int, required=False)
@click.option("--study", metavar="TASK", type=int, help="a study instead of a job, by its task")
@click.option("--server", default="http://127.0.0.1:25080", show_default=True, metavar="URL")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def command(job_id: int | None, study: int | None, server: str, as_json: bool) -> int:
    """Print the state of job ID, its outputs and its history, or of a study with its best points."""
    if (job_id is None) == (study is None):
        raise UsageError("status: name a job by its ID, or a study by --study TASK (see pilot status --help)")
    with LocalServer(server) as api:
        status = api.status(job_id) if job_id is not None else api.study(study or 0)
    if as_json:
        say_json(status)
    elif job_id is not None:
        say(describe(status))
    else:
        say("\n".join(study_lines(status, shutil.get_terminal_size().columns)))
    return 0
