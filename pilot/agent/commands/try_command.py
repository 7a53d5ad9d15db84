"""`pilot try`: one job, here and now."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("try")
@click.argument("file", metavar="FILE")
@click.option("--out", metavar="DIR", help="where outputs and log go  [<name of the job>-out]")
@click.option("--inputs-from", metavar="DIR", help="where the inputs of a PanDA job definition lie")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, and nothing else")
def command(file: str, out: str | None, inputs_from: str | None, as_json: bool) -> int:
    """Run the job in FILE with the very pilot that runs in pods, against a server started for it.

    FILE is our YAML, or a PanDA job definition (pandaJobData.out, JSON). Exit code: 0 the job finished,
    1 it failed, 78 wrong usage.
    """
    from pilot.agent.local.attempt import try_job  # noqa: PLC0415 - brings requests with it

    return try_job(Path(file), Path(out) if out else None, Path(inputs_from) if inputs_from else None, as_json=as_json)
