"""`pilot copy`: move files by hand, with what jobs move them with."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import click

from pilot.staging.transfer import ThirdParty
from pilot.values.errors import UsageError
from pilot.values.names import Checksum
from pilot.values.redaction import Redactor

_VALUE = re.compile(r"(?i)(ad|adler32|md|md5)(:.*)?")
_SHOWN = "adler32"

_MORE = """\b
Where a file goes:
  DST is a directory that is there, ends in /, or there are several SRC:
      below it, by its name; a directory SRC with all that is in it
  else DST is its name. A storage is not asked whether DST is a directory:
      pilot copy DIR root://host//data/   makes  root://host//data/DIR/...
      pilot copy DIR root://host//data    makes  root://host//data/...
  SRC/ with a slash at its end means what is in the directory, without its name.
  Directories are made where they are missing; empty ones are left out.

\b
Exit codes:
  0    all files are there, and verified
  1    some are not, each told in one line on stderr
  78   wrong settings or arguments
  130  ended by Ctrl-C, 143 by SIGTERM: no partial file is left"""


class _Command(click.Command):
    """Takes ``--checksum`` with or without a value, which click cannot tell from a SRC behind it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_checksum_value(args))


@click.command("copy", cls=_Command, epilog=_MORE)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True)
@click.argument("target", metavar="DST")
@click.option("-r", "--recursive", is_flag=True, help="accepted for the habit: directories are copied whole anyway")
@click.option("--third-party", type=click.Choice(["pull", "push"]), help="let one storage copy to the other, by itself")
@click.option(
    "--checksum", metavar="[KIND:HEX]", help="compare with adler32:... or md5:...; adler32 is computed and told anyway"
)
@click.option("--overwrite", is_flag=True, help="replace what is there  [the same bytes will do, others are an error]")
@click.option("--parallel", type=click.IntRange(1, 16), metavar="N", help="files at once  [4]")
@click.option("--token", metavar="FILE", help="bearer token for the storages  [BEARER_TOKEN_FILE]")
@click.option("--tokens", metavar="DIR", help="tokens, of which each storage gets the one for it")
@click.option("--proxy", metavar="FILE", help="certificate and key, such as a grid proxy  [X509_USER_PROXY]")
@click.option("--ca", metavar="PATH", help="certificate authorities, a file or a directory  [X509_CERT_DIR]")
@click.option("--config", metavar="FILE", help="settings file  [/etc/pilot/pilot.yaml, if there is one]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, and nothing else")
@click.option("-v", "--verbose", is_flag=True, help="tell of each attempt on stderr")
@click.pass_obj
def command(
    redactor: Redactor,
    /,
    sources: tuple[str, ...],
    target: str,
    checksum: str | None,
    third_party: ThirdParty | None,
    **more: Any,
) -> int:
    """Copy files and directories between storages and this machine, each verified by its checksum.

    SRC and DST are local paths or URLs (root, roots, http, https, dav, davs, file). From storage to storage the
    bytes pass through this machine, unless --third-party says which of the two is to move them: the
    destination (pull) or the source (push).
    """
    from pilot.agent.local.copying import Request, copy_files  # noqa: PLC0415 - `pilot copy --help` does without

    more.pop("recursive")
    return copy_files(Request(sources, target, _checksum(checksum), third_party, **more), redactor)


def with_checksum_value(arguments: list[str]) -> list[str]:
    """The arguments, with ``--checksum`` and its value, if it has one, as one word."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, result = deque(arguments[:end]), []
    while words:
        word = words.popleft()
        if word == "--checksum":
            word += "=" + (words.popleft() if words and _VALUE.fullmatch(words[0]) else _SHOWN)
        result.append(word)
    return result + arguments[end:]


def _checksum(text: str | None) -> Checksum | None:
    """What to compare with; None to compute only."""
    if text is None or text.lower() in ("ad", _SHOWN):
        return None
    if text.lower() in ("md", "md5"):
        raise UsageError("copy: --checksum: an md5 can be compared, as md5:HEX; what is told is the adler32")
    try:
        return Checksum.parse(text)
    except ValueError as error:
        raise UsageError(f"copy: --checksum: {error}") from None
