"""`pilot tune`: one study, here and now."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("tune")
@click.argument("study", metavar="STUDY")
@click.option("--out", metavar="DIR", help="where results, and all that is needed to go on, are kept  [<study>-out]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, and nothing else")
def command(study: str, out: str | None, as_json: bool) -> int:
    """Run the study in STUDY on all slots of this machine, with the very pilot and server that run elsewhere.

    After a Ctrl-C or a crash the same command goes on where it was. At the end there are the best point,
    results.json, and index.html with plots. Exit code: 0 it has finished, 1 it failed, 78 wrong usage,
    130 it was stopped.
    """
    from pilot.agent.local.tune import tune_study  # noqa: PLC0415 - brings requests with it

    return tune_study(Path(study), Path(out) if out else None, as_json=as_json)
