"""What stands in jobPars for the pilot and not for the payload (panda-protocol.md 4.5, last lines).

``--overwriteQueueData {..}`` and ``--overwriteStorageData {..}`` change queue and storage data for one job, and
``<ZIP_MAP>a.zip:f1,f2 b.zip:f3</ZIP_MAP>`` names archives that the pilot is to make of output files. They are
taken out of the text. All else is the payload's and is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pilot.values.decoding import decode_loosely
from pilot.values.errors import BadJob, Garbled
from pilot.values.names import Lfn, quoted

_QUEUE, _STORAGES = "--overwriteQueueData", "--overwriteStorageData"
_ZIP_BEGIN, _ZIP_END = "<ZIP_MAP>", "</ZIP_MAP>"


class Parameters(NamedTuple):
    """The payload's text, changes of queue and storage data, and archives with the files that go into each."""

    text: str
    queue: Mapping[str, Any]
    storages: Mapping[str, Any]
    zips: Mapping[Lfn, tuple[Lfn, ...]]


def split_parameters(text: str) -> Parameters:
    """Take out what is ours. Raises BadJob."""
    text, queue = _cut(text, _QUEUE)
    text, storages = _cut(text, _STORAGES)
    text, zips = _cut_zips(text)
    return Parameters(text, queue, storages, zips)


def _cut_zips(text: str) -> tuple[str, Mapping[Lfn, tuple[Lfn, ...]]]:
    """The text without the element and the quotes around it, and what it maps."""
    before, found, after = text.partition(_ZIP_BEGIN)
    if not found:
        return text, MappingProxyType({})
    inner, found, after = after.partition(_ZIP_END)
    if not found:
        raise BadJob("jobPars", f"{_ZIP_BEGIN}: it has no end")
    if _ZIP_BEGIN in after:
        raise BadJob("jobPars", f"{_ZIP_BEGIN}: it stands twice")
    quote = before[-1:]
    if quote in ("'", '"') and after.startswith(quote):
        before, after = before[:-1], after[1:]
    return f"{before.rstrip()} {after.lstrip()}".strip(), MappingProxyType(_zips(inner))


def _zips(text: str) -> dict[Lfn, tuple[Lfn, ...]]:
    zips: dict[Lfn, tuple[Lfn, ...]] = {}
    for entry in text.split():
        name, _, members = entry.partition(":")
        try:
            archive, files = Lfn(name), tuple(Lfn(member) for member in members.split(","))
        except ValueError as error:
            raise BadJob("jobPars", f"{_ZIP_BEGIN}: {error}") from None
        if archive in zips or archive in files or len(set(files)) != len(files):
            raise BadJob("jobPars", f"{_ZIP_BEGIN}: {quoted(entry)} names a file twice")
        zips[archive] = files
    return zips


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
    try:
        value = decode_loosely(text)
    except Garbled as error:
        raise BadJob("jobPars", f"{option}: its mapping cannot be read: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadJob("jobPars", f"{option}: its mapping cannot be read: not all keys are texts")
    return value
