"""`pilot serve`: the embedded PanDA server."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import click

from pilot.agent import configuration
from pilot.agent.local.servers import noted
from pilot.values.errors import UsageError

Auth = Literal["none", "required"]


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
@click.option("--tls", is_flag=True, help="serve https, with an authority of its own in DIR/tls")
@click.option(
    "--auth",
    type=click.Choice(["none", "required"]),
    help="whether calls need a token or a certificate  [default: required with --tls, else none]",
)
@click.option("--insecure", is_flag=True, help="let other machines in although nobody is asked who he is: with --host")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="another name that callers have for this host; may be repeated",
)
@click.option(
    "--as-broken-as-1.0.4",
    "as_broken",
    is_flag=True,
    help="answer event updates with 500 after doing them, as PanDA does",
)
@click.option(
    "--lease",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="a job that is silent for so long has failed, and its points go to others  [default: 7200]",
)
def command(
    *,
    host: str,
    port: int,
    data: str,
    tls: bool,
    auth: Auth | None,
    insecure: bool,
    names: tuple[str, ...],
    as_broken: bool,
    lease: float | None,
) -> int:
    """Serve PanDA's API for one machine, with a file store; ends with TERM or Ctrl-C.

    For tests and small studies, not for the internet. Prints one line, `ready http://HOST:PORT`, when it can be
    used. `pilot submit` and `status` of the same user find its local token (DIR/local_token) by themselves. With
    credentials, these are to be found in DIR/tls (ca.pem, client.pem) and DIR/tokens (token, token_key).
    """
    try:
        from pilot.embedded.server import serve_forever  # noqa: PLC0415 - not part of the runtime image
    except ImportError as error:
        raise UsageError(
            f"the embedded server needs more packages: pip install 'panda-pod-pilot[embedded]' ({error})"
        ) from None
    serve_forever(
        Path(data),
        host,
        port,
        announced=partial(noted, Path(data), places=configuration.runtime_places()),
        tls=tls,
        auth=auth,
        insecure=insecure,
        names=names,
        as_broken_as_1_0_4=as_broken,
        lease_s=lease,
    )
    return 0
