"""Copies one file, whatever is on either side: in one pass with its checksum, and verified at its end.

What a protocol has to offer for that is in `tool.py`. The bytes go through this process, unless a
third-party copy is asked for: then one of the two storages moves them, and we compare at its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pilot.staging.order import WEB, XROOT, Around, Done, Entry, Order, Report, Side, plain
from pilot.staging.worker import posix
from pilot.staging.worker.checksum import Digest
from pilot.staging.worker.remote import deleted_on_error, stored
from pilot.staging.worker.tool import Source, Stat, Tool
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch, StageError, Stalled, TransferFailed, Unreachable


def copy(order: Order, report: Report, around: Around) -> Done:
    """Do it. A target that is there already will do if it has the same bytes; else Exists, unless ``overwrite``."""
    try:
        if order.third_party:
            return _between(order, report, around)
        if order.source.scheme == order.destination.scheme == "file":
            return posix.copy(order, report)
        return _through_us(order, report, around)
    except Exists as error:
        if order.overwrite:
            raise
        return _same(order, report, around, error)


def find(side: Side, around: Around) -> list[Entry]:
    """The files below a directory; or the one file that is no directory, whose path is ""."""
    speaker = tool(side.scheme)
    try:
        return list(speaker.entries(side, around))
    except StageError as error:  # not every web server has lists, and not all say of a file that it is one
        try:
            return [Entry("", speaker.stat(side, around, None).size)]
        except StageError:
            raise error from None


def tool(scheme: str) -> Tool:
    """The module that speaks ``scheme``, imported now (urllib3: 70 ms, xrootd: 45 ms and its threads)."""
    if scheme in WEB:
        from pilot.staging.worker.web import http  # noqa: PLC0415

        return http
    if scheme in XROOT:
        from pilot.staging.worker.xroot import xroot  # noqa: PLC0415

        return xroot
    if scheme == "file":
        return posix
    raise TransferFailed(f"no lane speaks {scheme!r}")


def _through_us(order: Order, report: Report, around: Around) -> Done:
    there, here = tool(order.source.scheme), tool(order.destination.scheme)
    compared = order.checksum is not None
    with there.reading(order.source, around, report, compared=compared) as source:
        content = _Content(source, order, report)
        content.check_announced()
        _make_way(here, order, around)
        with here.writing(order.destination, content, around, overwrite=order.overwrite):
            done = content.digest.check(order, order.source.url)
            if not compared and order.source.scheme != "file":
                report.verifying(done.size)
                done = content.digest.agree(order.source.url, *_promised(there, order.source, around, done.size))
            if order.destination.scheme != "file":
                report.verifying(done.size)
                url, size = order.destination.url, done.size
                found = stored(url, size, lambda: here.stat(order.destination, around, "adler32", size))
                done = content.digest.agree(url, *found)
    return done


class _Content:
    """The source's bytes on their way to the target, counted and summed up as they go by."""

    def __init__(self, source: Source, order: Order, report: Report) -> None:
        self._source = source
        self._order = order
        self._report = report
        self._begun = False
        self.digest = Digest.of(order)

    @property
    def size(self) -> int | None:
        # The catalogue's where the source announces none: an upload of unknown length is one that xrootd 5.5 spoils.
        return self._source.size if self._source.size is not None else self._order.size

    def check_announced(self) -> None:
        """Raise Mismatch before a byte has moved, if the source says another size than the catalogue."""
        announced, known = self._source.size, self._order.size
        if announced is not None and known is not None and announced != known:
            raise Mismatch(f"{self._name}: it has {announced} bytes, the catalogue says {known}")

    def __iter__(self) -> Iterator[bytes]:
        if self._begun and not self._source.again:
            raise TransferFailed(f"{self._name}: the target wants it a second time, and it can be read only once")
        self._begun = True
        self.digest.reset()
        if self._order.destination.scheme != "file":
            self._report.writing()
        most = self._order.size if self._order.size is not None else self._source.size
        for chunk in self._source.chunks:
            self.digest.update(chunk)
            if most is not None and self.digest.size > most:  # at once, not when the disk is full
                raise Mismatch(f"{self._name}: it has more than the {most} bytes that were told")
            yield chunk
            self._report.moved(self.digest.size)
        if self._source.size not in (None, self.digest.size):
            raise Mismatch(f"{self._name}: {self.digest.size} of {self._source.size} announced bytes came")
        if self._order.size not in (None, self.digest.size):  # now: a target that was told more waits for it
            raise Mismatch(f"{self._name}: it has {self.digest.size} bytes, the catalogue says {self._order.size}")

    @property
    def _name(self) -> str:
        return plain(self._order.source.url)


def _between(order: Order, report: Report, around: Around) -> Done:
    """A third-party copy. What the storages say of its success is not enough: both are asked for the file."""
    source, target = _pair(order)
    there = source.stat(order.source, around, order.kind, order.size)
    wanted = order.checksum[1] if order.checksum else there.checksum
    if order.size is not None and there.size not in (None, order.size):
        raise Mismatch(f"{plain(order.source.url)}: it has {there.size} bytes, the catalogue says {order.size}")
    _make_way(target, order, around)
    if not order.overwrite:
        _refuse_existing(target, order.destination, around)
    size = order.size if order.size is not None else there.size
    with deleted_on_error(lambda: target.delete(order.destination, around), spared=(Exists,)):
        report.writing()
        if order.source.scheme in WEB:
            from pilot.staging.worker.web import third_party  # noqa: PLC0415

            third_party.copy(order._replace(size=size), report, around)
        else:
            from pilot.staging.worker.xroot import xroot  # noqa: PLC0415

            xroot.copy_between(order, report, around)
        report.verifying(size or 0)
        found = stored(order.destination.url, size, lambda: target.stat(order.destination, around, order.kind, size))
        _agree(order, Stat(size, wanted), found)
    verified = "size" if None in (wanted, found.checksum) else "checksum"
    adler32 = (wanted or found.checksum) if order.kind == "adler32" else None
    return Done(found.size or size or 0, adler32, verified)


def _agree(order: Order, wanted: Stat, found: Stat) -> None:
    """Raise Mismatch if the two differ in what both tell."""
    for ours, theirs, what in zip(wanted, found, ("size", order.kind), strict=True):
        if None not in (ours, theirs) and ours != theirs:
            raise Mismatch(f"{plain(order.destination.url)}: its {what} is {theirs} after the copy, and not {ours}")


def _pair(order: Order) -> tuple[Tool, Tool]:
    schemes = {order.source.scheme, order.destination.scheme}
    if not (schemes <= WEB or schemes <= XROOT):
        raise TransferFailed(
            f"{plain(order.source.url)}: a third-party copy wants http or dav on both sides, or root on both sides"
        )
    return tool(order.source.scheme), tool(order.destination.scheme)


def _make_way(target: Tool, order: Order, around: Around) -> None:
    """Remove what is to be overwritten in a storage.

    xrootd keeps a checksum with the file, and takes it for the new content's if both were written in one second.
    """
    if order.overwrite and order.destination.scheme != "file":
        with contextlib.suppress(StageError):  # the write will tell
            target.delete(order.destination, around)


def _refuse_existing(target: Tool, side: Side, around: Around) -> None:
    with contextlib.suppress(FileMissing, Denied):  # who may not look may still be allowed to write
        target.stat(side, around, None)
        raise Exists(f"{plain(side.url)}: it is there already")


def _same(order: Order, report: Report, around: Around, error: Exists) -> Done:
    """What is there already, if it has the same size and checksum as the source; raises Exists if not."""
    target, source = tool(order.destination.scheme), tool(order.source.scheme)
    try:
        found = target.stat(order.destination, around, order.kind, order.size)
    except FileMissing:
        raise error from None
    report.verifying(found.size or 0)
    wanted = _wanted(order, source, around, found.size)
    if None not in (found.size, found.checksum) and found == wanted:
        return Done(found.size or 0, found.checksum if order.kind == "adler32" else None, "checksum", there=True)
    raise Exists(
        f"{plain(order.destination.url)}: another file is there already ({_described(found, order.kind)}; "
        f"ours: {_described(wanted, order.kind)})"
    ) from error


def _wanted(order: Order, source: Tool, around: Around, size: int | None) -> Stat:
    """Size and checksum that the target should have: the catalogue's, as far as it says."""
    if order.size is not None and order.checksum is not None:
        return Stat(order.size, order.checksum[1])
    told = source.stat(order.source, around, order.kind, size)
    return Stat(
        order.size if order.size is not None else told.size, order.checksum[1] if order.checksum else told.checksum
    )


def _described(stat: Stat, kind: str) -> str:
    return f"{stat.size} bytes, {kind} {stat.checksum}"


def _promised(source: Tool, side: Side, around: Around, size: int) -> Stat:
    """Size and adler32 of a file that was read just now, or nothing if the server does not tell them.

    One that only could not tell them now is asked again, by another try: nothing else protects the file.
    Not asked for with the GET: xrootd answers that with 500 for a file that is missing or closed to us.
    """
    try:
        return source.stat(side, around, "adler32", size)
    except (Stalled, Unreachable):
        raise
    except StageError:
        return Stat(None, None)
