"""`pilot status`: ask an embedded server what became of a job."""

from __future__ import annotations

import json

import click

from pilot.agent.local.api import LocalServer
from pilot.agent.local.view import describe


@click.command("status")
@click.argument("job_id", metavar="ID", type=int)
@click.option("--server", default="http://127.0.0.1:25080", show_default=True, metavar="URL")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def command(job_id: int, server: str, as_json: bool) -> int:
    """Print the state of job ID, its outputs and its history."""
    with LocalServer(server) as api:
        status = api.status(job_id)
    click.echo(json.dumps(status, indent=1) if as_json else describe(status))
    return 0
