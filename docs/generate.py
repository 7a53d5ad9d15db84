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
record is on the disk before the step that it speaks of goes on. What stands behind the last line break may be torn; the
lock on the file and on its directory (flock) tells whether its writer lives. Readers pass over kinds that they do not
know. Records of a job have its `job` and `attempt`; those of the points of a hyper-parameter job have a `point`.

Anything else that is no record is damage, as are facts of another type than they must have, more than 32 MiB, and more
than 200,000 records. The whole records around it are used: the job that they name fails with 1200 and says why, and a
copy of the file is kept as `journal.damaged-1`, `-2`, `-3`. What is no regular file in the journal's place is put aside
as `journal.odd`.

A payload of the pilot's uid can write here. So what a record says is looked at before it is acted on:

| what is written | what is believed |
|---|---|
| `area` | the directory of this name below the volume, if the name is one that this attempt can have |
| `proof` | processes that carry the payload's mark, and members of a real control group with the mark in its name |
| `destinations` | places in storages that the site's own data have now, under the file's name |
| `exited` | with the seal whose SHA-256 is in `taken`; journals of before there were seals have none |
| `stored`, a `final` that says finished | after a look at each file: one that is gone, or another, is sent again |
| `final` | if the server has no end of the attempt; only fields of a final, and not the job's identity |
| `ended` | if the life that wrote it went on or left in order; else the server is asked |
| a `point` that was closed | if the server says that its event has ended |
| `settings` | who the pilot was and how patient; no server that a credential goes to, no other URL |

What is left: a payload can end its job as failed, or exit with 0, as it can anyhow; and a whole journal in the old
form can name other outputs than the job's, which the server compares with its own list. This page is made by
`docs/generate.py`.

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
