"""`pilot serve`: the embedded PanDA server."""

from __future__ import annotations

from pathlib import Path

import click

from pilot.values.errors import UsageError


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=25080,
    show_default=True,
    help="port to listen on; 0 picks a free one",
)
@click.option("--data", default="pilot-data", show_default=True, metavar="DIR", help="where jobs and files are kept")
def command(host: str, port: int, data: str) -> int:
    """Serve PanDA's API for one machine, with a file store; ends with TERM or Ctrl-C.

    Prints one line, `ready http://HOST:PORT`, when it can be used.
    """
    try:
        from pilot.embedded.server import serve_forever  # noqa: PLC0415 - not part of the runtime image
    except ImportError as error:
        raise UsageError(
            f"the embedded server needs more packages: pip install 'panda-pod-pilot[embedded]' ({error})"
        ) from None
    serve_forever(Path(data), host, port)
    return 0
