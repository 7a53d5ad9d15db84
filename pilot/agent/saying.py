"""Where text for people leaves the commands: whatever it holds of others, a terminal does nothing but show it."""

from __future__ import annotations

import json
from typing import Any, TextIO

import click

from pilot.values.printable import block


def say(text: str, stream: TextIO | None = None) -> None:
    """One or more lines on stdout, or on another stream."""
    click.echo(block(text), file=stream)


def say_json(value: Any, indent: int | None = 1) -> None:
    """One object on stdout, in ASCII without control characters."""
    click.echo(json.dumps(value, indent=indent).replace("\x7f", "\\u007f"))
