"""Writes docs/settings.md from the table of settings in the code."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from pilot.values.settings import Settings, environment_names

HEAD = """# Settings

Defaults < settings file (`/etc/pilot/pilot.yaml`, or `--config`) < environment < flags. Of several variables the first
one that is set wins. `pilot run --show-settings` prints all settings with where each came from. This page is made by
`docs/generate.py`.

| setting | default | unit | environment | what it does |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_row(one.name) for one in fields(Settings))


def _row(name: str) -> str:
    one = next(one for one in fields(Settings) if one.name == name)
    default = ",".join(one.default) if isinstance(one.default, tuple) else one.default
    shown = f"`{default}`" if default != "" else ""
    variables = ", ".join(f"`{variable}`" for variable in environment_names(name))
    return f"| `{name}` | {shown} | {one.metadata['unit']} | {variables} | {one.metadata['help']} |\n"


if __name__ == "__main__":
    target = Path(__file__).with_name("settings.md")
    target.write_text(page())
    sys.stdout.write(f"{target}\n")
