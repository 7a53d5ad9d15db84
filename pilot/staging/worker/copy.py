"""Copies one file, whatever is on either side: in one pass with its checksum, and verified at its end.

What a protocol has to offer for that is in `tool.py`. The bytes go through this process, unless a
third-party copy is asked for: then one of the two storages moves them, and we compare at its end. What takes an old
file's place goes by `replacing.py`.
"""

from __future__ import annotations

import contextlib

from pilot.staging.order import WEB, XROOT, Around, Done, Entry, Order, Report, Side, plain
from pilot.staging.worker import posix
from pilot.staging.worker.content import Bytes
from pilot.staging.worker.remote import deleted_on_error, looked_at, removal
from pilot.staging.worker.replacing import replace
from pilot.staging.worker.same import refuse_same
from pilot.staging.worker.tool import NOTHING_KNOWN, Said, Stat, Tool
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch, StageError, Stalled, TransferFailed, Unreachable


def copy(order: Order, report: Report, around: Around) -> Done:
    """Do it. A target that is there already will do if it has the same bytes; else Exists, unless ``overwrite``."""
    if order.overwrite:
        refuse_same(order)
    try:
        if order.overwrite and not order.ours and order.destination.scheme != "file":
            return replace(order, report, around, tool, _made)
        return _made(order, report, around)
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


def _made(order: Order, report: Report, around: Around, old: Stat | None = None) -> Done:
    """A copy at its destination; where there is an ``old`` file it is written over."""
    if order.ours and order.destination.scheme != "file":
        _make_way(tool(order.destination.scheme), order.destination, around)
    if order.third_party:
        return _between(order, report, around, old)
    if order.source.scheme == order.destination.scheme == "file":
        return posix.copy(order, report)
    return _through_us(order, report, around, old)


def _through_us(order: Order, report: Report, around: Around, old: Stat | None) -> Done:
    there, here = tool(order.source.scheme), tool(order.destination.scheme)
    compared = order.checksum is not None
    with there.reading(order.source, around, report, compared=compared) as source:
        content = Bytes(source, order, report, _to_clear(order, old))
        content.check_announced()
        with here.writing(order.destination, content, around, overwrite=order.overwrite, old=old) as said:
            done = content.digest.check(order, order.source.url)
            if not compared and order.source.scheme != "file":
                report.verifying(done.size)
                done = content.digest.agree(order.source.url, *_promised(there, order.source, around, done.size))
            if order.destination.scheme != "file":
                done = _verified(order, content, said, report, around)
    return done


def _verified(order: Order, content: Bytes, said: Said, report: Report, around: Around) -> Done:
    """What was sent is what is stored; or, where nobody may look, as far as the storage has said when it took it."""
    url, size = order.destination.url, content.digest.size
    here = tool(order.destination.scheme)
    report.verifying(size)
    found = looked_at(url, size, lambda: here.stat(order.destination, around, "adler32", size), report)
    if found != NOTHING_KNOWN:
        return content.digest.agree(url, *found)
    done = content.digest.agree(url, None, said.adler32)
    if done.verified != "checksum" and said.md5 is not None and said.md5 == _md5(order.source, around, size):
        done = done._replace(verified="checksum")
    return done if done.verified == "checksum" else done._replace(verified="answer")


def _md5(side: Side, around: Around, size: int) -> str | None:
    with contextlib.suppress(StageError):
        return tool(side.scheme).stat(side, around, "md5", size).checksum
    return None


def _between(order: Order, report: Report, around: Around, old: Stat | None) -> Done:
    """A third-party copy. What the storages say of its success is not enough: both are asked for the file."""
    source, target = _pair(order)
    there = _told(source, order, around)
    wanted = order.checksum[1] if order.checksum else there.checksum
    _agree(order.source, order, _catalogue(order), there, "the catalogue says")
    if not order.overwrite:
        _refuse_existing(target, order.destination, around)
    size = order.size if order.size is not None else there.size
    look = lambda: target.stat(order.destination, around, order.kind, size)  # noqa: E731 - it is needed twice
    remove = removal(look, lambda: target.delete(order.destination, around), old)
    with deleted_on_error(remove, spared=(Exists,)):
        report.writing(_to_clear(order, old))
        if order.source.scheme in WEB:
            from pilot.staging.worker.web import third_party  # noqa: PLC0415

            third_party.copy(order._replace(size=size), report, around)
        else:
            from pilot.staging.worker.xroot import xroot  # noqa: PLC0415

            if old is not None:
                xroot.check_may_change(order.destination.url, around)
            xroot.copy_between(order, report, around)
        report.verifying(size or 0)
        found = looked_at(order.destination.url, size, look, report)
        _agree(order.destination, order, Stat(size, wanted), found, "after the copy it should be")
    verified = "answer" if found == NOTHING_KNOWN else "size" if None in (wanted, found.checksum) else "checksum"
    adler32 = (wanted or found.checksum) if order.kind == "adler32" else None
    return Done(found.size or size or 0, adler32, verified)


def _told(source: Tool, order: Order, around: Around) -> Stat:
    """What the source's storage says of it; nothing if it lets nobody look: the copy itself will tell."""
    try:
        return source.stat(order.source, around, order.kind, order.size)
    except (Denied, TransferFailed):
        return NOTHING_KNOWN


def _catalogue(order: Order) -> Stat:
    return Stat(order.size, order.checksum[1] if order.checksum else None)


def _to_clear(order: Order, old: Stat | None) -> str:
    """Where half a file of ours may be; nowhere if it may also be an old file that is whole."""
    return order.destination.url if old is None else ""


def _agree(side: Side, order: Order, wanted: Stat, found: Stat, why: str) -> None:
    """Raise Mismatch if the two differ in what both tell."""
    for ours, theirs, what in zip(wanted, found, ("size", order.kind), strict=True):
        if None not in (ours, theirs) and ours != theirs:
            raise Mismatch(f"{plain(side.url)}: its {what} is {theirs}, {why} {ours}")


def _pair(order: Order) -> tuple[Tool, Tool]:
    schemes = {order.source.scheme, order.destination.scheme}
    if not (schemes <= WEB or schemes <= XROOT):
        raise TransferFailed(
            f"{plain(order.source.url)}: a third-party copy wants http or dav on both sides, or root on both sides"
        )
    return tool(order.source.scheme), tool(order.destination.scheme)


def _make_way(target: Tool, side: Side, around: Around) -> None:
    """Remove what a broken copy of the same file has left in a storage.

    xrootd keeps a checksum with the file, and takes it for the new content's if both were written in one second.
    """
    with contextlib.suppress(StageError):  # the write will tell
        target.delete(side, around)


def _refuse_existing(target: Tool, side: Side, around: Around) -> None:
    with contextlib.suppress(FileMissing, Denied, TransferFailed):  # who may not look may still be allowed to write
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
        return _catalogue(order)
    told = _told(source, order._replace(size=size), around)
    known = _catalogue(order)
    return Stat(told.size if known.size is None else known.size, known.checksum or told.checksum)


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
