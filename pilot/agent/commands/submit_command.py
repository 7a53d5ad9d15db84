"""`pilot submit`: give a job or a study to an embedded server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pilot.agent.local.api import LocalServer
from pilot.agent.local.jobfile import read_content, read_job_file
from pilot.agent.local.studyfile import is_study, read_study_file
from pilot.agent.saying import say, say_json
from pilot.values.printable import line


@click.command("submit")
@click.argument("file", metavar="FILE")
@click.option("--server", default="http://127.0.0.1:25080", show_default=True, metavar="URL")
@click.option("--inputs-from", metavar="DIR", help="where the inputs of a PanDA job definition lie")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def command(file: str, server: str, inputs_from: str | None, as_json: bool) -> int:
    """Submit the job or the study in FILE: our YAML or JSON, or a PanDA job definition.

    Local files are uploaded with it. Pilots evaluate the points of a study: `pilot run --server URL`.
    """
    path = Path(file)
    with LocalServer(server) as api:
        if is_study(read_content(path)):
            submitted, said = _study(path, api)
        else:
            job = read_job_file(path, Path(inputs_from) if inputs_from else None)
            job_id = api.submit(job.uploaded(api.upload))
            submitted, said = {"id": job_id, "state": "activated"}, f"job {job_id} submitted"
    if as_json:
        say_json(submitted, indent=None)
    else:
        say(line(said))
    return 0


def _study(file: Path, api: LocalServer) -> tuple[dict[str, Any], str]:
    given = read_study_file(file)
    if given.archive:
        api.keep(given.archive, given.sandbox)
    task = api.submit_study(given.uploaded(api.upload))
    status = api.study(task)
    told = {"task": task, "name": status["name"], "state": status["state"]}
    return told, f"study {status['name']} submitted: task {task}"
