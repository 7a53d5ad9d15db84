"""`pilot submit`: give a job to an embedded server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pilot.agent.local.api import LocalServer
from pilot.agent.local.jobfile import read_job_file


@click.command("submit")
@click.argument("file", metavar="FILE")
@click.option("--server", default="http://127.0.0.1:25080", show_default=True, metavar="URL")
@click.option("--inputs-from", metavar="DIR", help="where the inputs of a PanDA job definition lie")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def command(file: str, server: str, inputs_from: str | None, as_json: bool) -> int:
    """Submit the job in FILE: our YAML, or a PanDA job definition. Local files are uploaded with it."""
    job = read_job_file(Path(file), Path(inputs_from) if inputs_from else None)
    with LocalServer(server) as api:
        job_id = api.submit(job.uploaded(api.upload))
    click.echo(json.dumps({"id": job_id, "state": "activated"}) if as_json else f"job {job_id} submitted")
    return 0
