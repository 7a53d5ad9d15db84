"""The lines of a journal: one record each, as it is written, and as it is read whatever became of the file.

A record is one line: the CRC-32 of what follows (8 hex digits), a space, a JSON object with its ``kind`` and
``time``. A line is written in one piece and has its line break last, so only what stands behind the last line break
can be torn by a crash. Anything else that is no record is damage: a flipped bit, or somebody else's hand. The whole
records around it still count, for they tell whose job this is.

There is no chain from record to record. Their order cannot change by accident, and who can write the file can make
any chain again: what a record says is looked at when it is used (`past.py`, `recovery.py`).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

MOST_BYTES = 32 << 20
"""No journal is longer: the largest job has 10,000 files, of a kilobyte each."""

_MOST_RECORDS = 200_000
_MOST_TIME = 1e11


@dataclass(frozen=True, slots=True)
class Content:
    """What a journal holds: its whole records, and where in the file the next one goes, in bytes.

    ``damage`` says what is wrong with the file, "" for nothing; what is ``torn`` is no damage.
    """

    records: tuple[Record, ...] = ()
    end: int = 0
    torn: int = 0
    damage: str = ""


def line_of(record: Record) -> bytes:
    """A record as a line."""
    text = json.dumps(record, default=str).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def parse(content: bytes) -> Content:
    """Read a journal; ``content`` is its first `MOST_BYTES` and one byte more, if there are so many."""
    records: list[Record] = []
    damage = f"it has more than {MOST_BYTES >> 20} MiB" if len(content) > MOST_BYTES else ""
    end = 0
    for line_number, (line, after) in enumerate(_lines(content[:MOST_BYTES]), 1):
        if line_number > _MOST_RECORDS:
            damage = damage or f"it has more than {_MOST_RECORDS} records"
            break
        end = after
        try:
            records.append(_record(line))
        except ValueError as error:
            damage = damage or f"line {line_number}: {error}"
    return Content(tuple(records), end, 0 if damage else len(content) - end, damage)


def _lines(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Each whole line without its line break, and where the next one begins."""
    start = 0
    while (stop := content.find(b"\n", start)) >= 0:
        yield content[start:stop], stop + 1
        start = stop + 1


def _record(line: bytes) -> Record:
    """The record of a line. Raises ValueError for one that is none."""
    crc, space, text = line.partition(b" ")
    if not space or crc != b"%08x" % zlib.crc32(text):
        raise ValueError("its checksum is wrong")
    try:
        value = json.loads(text.decode(), parse_constant=_refused, parse_float=_finite)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise ValueError("no JSON that a pilot writes") from None
    if not _is_record(value):
        raise ValueError("no record, for it has no kind, or no time")
    return dict(value)


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    time = value.get("time")
    return isinstance(time, int | float) and not isinstance(time, bool) and 0 <= time < _MOST_TIME


def _refused(name: str) -> Any:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
