"""What stands in jobPars for the pilot and not for the payload (panda-protocol.md 4.5, last lines).

``--overwriteQueueData {..}`` and ``--overwriteStorageData {..}`` change queue and storage data for one job;
they are taken out of the text. All else is the payload's and is not looked at.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from pilot.values.errors import BadJob

_QUEUE, _STORAGES = "--overwriteQueueData", "--overwriteStorageData"


def split_parameters(text: str) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """The payload's text, changes of the queue data, changes of the storage data. Raises BadJob."""
    text, queue = _cut(text, _QUEUE)
    text, storages = _cut(text, _STORAGES)
    return text, queue, storages


def _cut(text: str, option: str) -> tuple[str, Mapping[str, Any]]:
    """The text without the option, and the option's mapping; {} where it does not stand."""
    before, found, after = text.partition(option)
    if not found:
        return text, {}
    start = after.find("{")
    if start < 0 or after[:start].strip(" =") != "":
        raise BadJob("jobPars", f"{option}: no mapping follows")
    end = _closing(after, start)
    if end is None:
        raise BadJob("jobPars", f"{option}: its mapping has no end")
    return f"{before.rstrip()} {after[end + 1 :].lstrip()}".strip(), _mapping(option, after[start : end + 1])


def _closing(text: str, start: int) -> int | None:
    depth = 0
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return None


def _mapping(option: str, text: str) -> Mapping[str, Any]:
    """JSON, or a Python literal, as users write it."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
    raise BadJob("jobPars", f"{option}: its mapping cannot be read")
