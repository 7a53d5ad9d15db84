"""Writes docs/settings.md, docs/calls.md and docs/journal.md from the tables in the code."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from pilot.panda.fields import CALLS, Field
from pilot.payload.environment import TOLD
from pilot.runner.journal import RECORDS
from pilot.values.settings import Settings, environment_names

SETTINGS_HEAD = """# Settings

Defaults < settings file (`/etc/pilot/pilot.yaml`, or `--config`) < environment < flags. Of several variables the first
one that is set wins. `pilot run --show-settings` prints all settings with where each came from. This page is made by
`docs/generate.py`.

| setting | default | unit | environment | what it does |
|---|---|---|---|---|
"""

CALLS_HEAD = """# Calls

Each call of PanDA's v1 API that the pilot can make (paths below `/api/v1/`), each field that it sends, where the value
comes from, its unit and limit. No other field is ever sent. This page is made by `docs/generate.py`.
"""


def settings_page() -> str:
    """The table of settings."""
    return SETTINGS_HEAD + "".join(_setting(one.name) for one in fields(Settings))


def _setting(name: str) -> str:
    one = next(one for one in fields(Settings) if one.name == name)
    default = ",".join(one.default) if isinstance(one.default, tuple) else one.default
    shown = f"`{default}`" if default != "" else ""
    variables = ", ".join(f"`{variable}`" for variable in environment_names(name))
    return f"| `{name}` | {shown} | {one.metadata['unit']} | {variables} | {one.metadata['help']} |\n"


def calls_page() -> str:
    """A table per call."""
    return CALLS_HEAD + "".join(_call(name, sent) for name, sent in CALLS.items())


def _call(name: str, sent: dict[str, Field]) -> str:
    head = f"\n## {name}\n\n"
    if not sent:
        return head + "Nothing is sent.\n"
    rows = [
        f"| `{field}` | {_kind(one)} | {one.source.replace('|', '&#124;')} | {one.unit} | {one.limit or ''} |\n"
        for field, one in sent.items()
    ]
    return head + "| field | type | where it comes from | unit | limit |\n|---|---|---|---|---|\n" + "".join(rows)


def _kind(field: Field) -> str:
    return {str: "text", int: "int", float: "number", dict: "object", bytes: "file"}[field.kind]


JOURNAL_HEAD = """# The journal

`<scratch>/journal` is what a pilot leaves to its next life, or to `pilot recover`: one record per line, the CRC-32 of
the rest in eight hex digits, a space, and a JSON object with `kind`, `time` (Unix, seconds) and what is listed here. A
record is on the disk before the step that it speaks of goes on. The last line may be torn; the lock on the file
(flock) tells whether its writer lives. Readers pass over kinds that they do not know; records of the points of a
hyper-parameter job will stand between those of their job, with a `point`. This page is made by `docs/generate.py`.

| kind | written | holds |
|---|---|---|
"""


def journal_page() -> str:
    """The table of records."""
    return JOURNAL_HEAD + "".join(f"| `{kind}` | {when} | {what} |\n" for kind, (when, what) in RECORDS.items())


PAYLOAD_HEAD = """# What a payload is told

The variables that the pilot sets in a payload's environment, beside those of the queue data and the job, and PATH,
LANG, LC_ALL and TZ of its own environment. Nothing else gets in. This page is made by `docs/generate.py`.

| variable | what it says |
|---|---|
"""


def payload_page() -> str:
    """The table of variables."""
    return PAYLOAD_HEAD + "".join(f"| `{name}` | {what} |\n" for name, what in TOLD.items())


PAGES = {"payload.md": payload_page, "settings.md": settings_page, "calls.md": calls_page, "journal.md": journal_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(__file__).with_name(name).write_text(page())
        sys.stdout.write(f"docs/{name}\n")
