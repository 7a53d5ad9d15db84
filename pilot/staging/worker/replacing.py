"""A copy that takes the place of an old file in a storage: that one stays until the new one is whole.

The new file is written under a name of its own, verified there, and renamed (root:// mv, MOVE of web servers), which
lets it take the place in one step. Where a storage gives no new names (or not to us) the source is read to its end
first, and compared with what is known of it; only then it is written over the old file.
"""

from __future__ import annotations

import contextlib
import time
from typing import Protocol

from pilot.staging.order import Around, Done, Order, Report, partial_url, plain
from pilot.staging.worker.content import Bytes
from pilot.staging.worker.remote import deleted_on_error, stored
from pilot.staging.worker.tool import NOTHING_KNOWN, Stat, Tool, Unfinished
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    Mismatch,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)

_TELL_EVERY_S = 1.0
_NO_NEW_NAMES = (Denied, Exists, FileMissing, TransferFailed)


class Make(Protocol):
    """What makes a copy at its destination."""

    def __call__(self, order: Order, report: Report, around: Around, old: Stat | None = None, /) -> Done:
        """``old``: what is there, and is written over."""


class Speaks(Protocol):
    """What knows the tool of a scheme."""

    def __call__(self, scheme: str, /) -> Tool:
        """Raises TransferFailed if there is none."""


def replace(order: Order, report: Report, around: Around, tool: Speaks, make: Make) -> Done:
    """Copy, whatever is at the destination. A copy that fails leaves that as it was."""
    target = tool(order.destination.scheme)
    try:
        target.stat(order.destination, around, None)
    except FileMissing:
        return make(order, report, around)
    except Unfinished:  # nothing that could be missed; and to be removed: xrootd would end what took its place
        return make(order._replace(ours=True), report, around)
    except (Denied, TransferFailed):
        pass  # nobody may look: there may be something
    name = partial_url(order.source.url, order.destination.url)
    beside = order._replace(destination=order.destination._replace(url=name), ours=True)
    try:
        renames = target.renames(beside.destination, order.destination.url, around)
    except Denied:  # who may not rename may not delete either, as a rule: what has another name would stay for ever
        return _over(order, None, report, around, tool, make)
    if renames:
        with contextlib.suppress(_NotRenamed):
            return _renamed(order, beside, report, around, target, make)
    return _over(order, beside, report, around, tool, make)


class _NotRenamed(Exception):
    """The storage gives no new names after all."""


def _renamed(order: Order, beside: Order, report: Report, around: Around, target: Tool, make: Make) -> Done:
    """By a name beside it, which it has until it is whole and verified."""
    done = make(beside, report, around)
    place = order.destination
    try:
        with deleted_on_error(lambda: target.delete(beside.destination, around), spared=()):
            target.rename(beside.destination, place.url, around)
    except _NO_NEW_NAMES as error:
        report.note("no new name for a file: it is written over the old one", url=plain(place.url), why=str(error))
        raise _NotRenamed from None
    with contextlib.suppress(Denied, TransferFailed, Unreachable, Stalled):  # it has said that it has done it
        found = stored(place.url, done.size, lambda: target.stat(place, around, None, done.size))
        if found.size not in (None, done.size):
            raise Mismatch(f"{plain(place.url)}: it has {found.size} bytes after it was renamed, and not {done.size}")
    return done


def _over(order: Order, beside: Order | None, report: Report, around: Around, tool: Speaks, make: Make) -> Done:
    """Over the old file, when the source is known to be good. The very bytes that are there already are left alone.

    So a file that is its own source, by a name that we do not see through, is not lost.
    """
    good = None
    if order.third_party and beside is not None:
        good = _tried(beside, report, around, tool, make)
    if good is None or good.adler32 is None:
        good = _read(order, report, around, tool)
    old = _looked(order, report, around, tool, good.size)
    if order.source.scheme != "file" and old.size in (None, good.size):
        found = old if None not in old else _content(order, report, around, tool)
        if found == (good.size, good.adler32):
            return good._replace(verified="checksum", there=True)
    return make(order, report, around, old)


def _looked(order: Order, report: Report, around: Around, tool: Speaks, size: int) -> Stat:
    """What is there, as far as the storage tells."""
    report.verifying(size)
    try:
        return tool(order.destination.scheme).stat(order.destination, around, "adler32", size)
    except (Denied, TransferFailed, FileMissing):
        return NOTHING_KNOWN


def _tried(beside: Order, report: Report, around: Around, tool: Speaks, make: Make) -> Done | None:
    """What a copy between the two storages comes to at another name; None if they let us have no such name."""
    try:
        done = make(beside, report, around)
    except Denied:
        return None
    with contextlib.suppress(StageError):
        tool(beside.destination.scheme).delete(beside.destination, around)
    return done


def _read(order: Order, report: Report, around: Around, tool: Speaks) -> Done:
    """Read the source to its end. Raises what reading raises, and Mismatch if it is not what it should be."""
    there = tool(order.source.scheme)
    with there.reading(order.source, around, report, compared=order.checksum is not None) as source:
        content = Bytes(source, order, _Silent(report))
        content.check_announced()
        for _ in content:
            pass
    return content.digest.check(order, order.source.url)


def _content(order: Order, report: Report, around: Around, tool: Speaks) -> Stat:
    """Size and adler32 of the old file by reading it; `NOTHING_KNOWN` if it cannot be read."""
    with contextlib.suppress(StageError):
        back = order._replace(source=order.destination, size=None, checksum=None)
        done = _read(back, report, around, tool)
        return Stat(done.size, done.adler32)
    return NOTHING_KNOWN


class _Silent:
    """A report of bytes that are read only: nothing is written yet."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._next = 0.0

    def moved(self, total_bytes: int) -> None:
        """A sign of life, once a second. What is told as moved is what moves to the target, afterwards."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _TELL_EVERY_S
            self._report.verifying(total_bytes)

    def writing(self, url: str) -> None:
        """Nothing is."""

    def verifying(self, size: int) -> None:
        """As it is."""
        self._report.verifying(size)

    def note(self, text: str, **keys: object) -> None:
        """As it is."""
        self._report.note(text, **keys)
