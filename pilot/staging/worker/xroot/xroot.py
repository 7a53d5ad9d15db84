"""The protocols root, roots and xroot, by the XRootD bindings.

`File.read` with several requests under way instead of `CopyProcess`: the checksum is taken in the same pass
(twice as fast as CopyProcess with its own comparison), and errors come with the server's number. Only where
nothing else would notice a flipped bit, the library copies by itself, with a checksum of each page.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from XRootD import client as _client
from XRootD.client.flags import AccessMode, DirListFlags, OpenFlags, QueryCode, StatInfoFlags

from pilot.staging.order import Around, Entry, Order, Report, Side, plain
from pilot.staging.worker.remote import DELETE_S, deleted_on_error
from pilot.staging.worker.tool import Content, Said, Source, Stat, Unfinished
from pilot.staging.worker.xroot import flight
from pilot.staging.worker.xroot import jobs as xroot_jobs
from pilot.staging.worker.xroot.errors import check, denied, refused
from pilot.values.errors import Denied, Exists, FileMissing, StageError, Stalled, TransferFailed, Unreachable

_MODE = AccessMode.UR | AccessMode.UW | AccessMode.GR | AccessMode.OR
_OF_NOTHING = {"adler32": "00000001", "md5": "d41d8cd98f00b204e9800998ecf8427e"}
_REFUSED = (Exists, Denied)

client: Any = _client  # the bindings say that they are typed, and are not

_noted: set[str] = set()


def stat(side: Side, around: Around, kind: str | None, size: int | None = None) -> Stat:
    """Size, and checksum as the server tells it; Unfinished for a file that is still being written."""
    found = _looked(side.url, around)
    if found.flags & StatInfoFlags.IS_DIR:
        raise TransferFailed(f"{plain(side.url)}: it is a directory")
    if found.flags & StatInfoFlags.POSC_PENDING:
        # Also what a killed writer leaves, for ten minutes at most servers. Whoever opens it has to wait so long.
        raise Unfinished(f"{plain(side.url)}: somebody is writing it, or was until a moment ago")
    if kind is None:
        return Stat(int(found.size), None)
    if not found.size:
        return Stat(0, _OF_NOTHING.get(kind))
    return Stat(int(found.size), _checksum(side.url, around, kind, size if size is not None else int(found.size)))


@contextlib.contextmanager
def reading(side: Side, around: Around, report: Report, *, compared: bool) -> Iterator[Source]:
    """An open file, read ahead; by page reads if nobody could tell its checksum afterwards."""
    remote = client.File()
    check(remote.open(side.url, OpenFlags.READ, timeout=_limit(around))[0], side.url)
    try:
        status, found = remote.stat(timeout=_limit(around))  # came with the open: not a request of its own
        check(status, side.url)
        if not compared and _unprotected(side, around):
            _note(side.url, report)
            yield Source(int(found.size), xroot_jobs.Paged(side.url, around))
            return
        with flight.Flight(side.url) as requests:
            chunks = flight.ReadAhead(remote, int(found.size), side.url, _limit(around), requests)
            yield Source(int(found.size), chunks, again=True)
    finally:
        # Not waited for: nothing of it matters, and it is a third of a small file's time. The function keeps the file.
        remote.close(timeout=_limit(around), callback=lambda *_answer: remote)


@contextlib.contextmanager
def writing(
    side: Side,
    content: Content,
    around: Around,
    *,
    overwrite: bool,
    old: Stat | None = None,
) -> Iterator[Said]:
    """A new file, which the server itself removes if we die before it is closed."""
    if old is not None:
        check_may_change(side.url, around)
    if _unprotected(side, around):
        with _written_in_pages(side, content, around, overwrite=overwrite):
            yield Said()
        return
    remote, limit_s = _created(side.url, around, overwrite=overwrite), _limit(around)
    try:
        with deleted_on_error(lambda: delete(side, around), spared=()):
            flight.write(remote, content, side.url, limit_s)
            check(remote.close(timeout=limit_s)[0], side.url)  # some servers tell only now that they could not keep it
            yield Said()
    finally:
        if remote.is_open():  # its name is gone already
            remote.close(timeout=int(DELETE_S))


def delete(side: Side, _around: Around) -> None:
    """Remove a file from storage, within a few seconds."""
    system, path = _place(side.url)
    with contextlib.suppress(FileMissing):
        check(system.rm(path, timeout=int(DELETE_S))[0], side.url)


def renames(side: Side, new: str, around: Around) -> bool:
    """Whether the server gives new names; asked of a file that is not there. No answer is no refusal."""
    system, path = _place(side.url)
    name, mark, parameters = path.partition("?")
    for target in (f"{name}.gone{mark}{parameters}", _place(new)[1]):
        limit_s = min(int(DELETE_S), _limit(around))
        status, _ = system.mv(f"{name}.none{mark}{parameters}", target, timeout=limit_s)
        try:
            check(status, side.url)
        except FileMissing:
            continue
        except (Exists, Unreachable, Stalled):
            return True
        except Denied:
            raise
        except StageError:
            pass
        return False  # if it says that it has renamed nothing at all, it is not to be relied on
    return True


def rename(side: Side, new: str, around: Around) -> None:
    """Give a file another's name and place: xrootd does that in one step."""
    system, path = _place(side.url)
    check(system.mv(path, _place(new)[1], timeout=_limit(around))[0], new)


def entries(side: Side, around: Around) -> Iterator[Entry]:
    """Regular files below a directory, in the order of their names."""
    if not _looked(side.url, around).flags & StatInfoFlags.IS_DIR:
        raise TransferFailed(f"{plain(side.url)}: it is not a directory")
    system, path = _place(side.url)
    folder, mark, parameters = path.partition("?")
    yield from _walk(system, folder.rstrip("/"), mark + parameters, "", around)


def copy_between(order: Order, report: Report, around: Around) -> None:
    """Let the destination's server fetch the file from the source's."""
    xroot_jobs.between(order.source.url, order.destination.url, around, report.moved, overwrite=order.overwrite)


def check_may_change(url: str, around: Around) -> None:
    """Raise Denied for who may make files and not change them: xrootd 5.5 removes the old one, and then refuses."""
    remote = client.File()
    with contextlib.suppress(FileMissing):
        check(remote.open(url, OpenFlags.UPDATE, timeout=_limit(around))[0], url)
        remote.close(timeout=_limit(around))


def _created(url: str, around: Around, *, overwrite: bool) -> Any:
    """An open new file."""
    remote = client.File()
    flags = (OpenFlags.DELETE if overwrite else OpenFlags.NEW) | OpenFlags.MAKEPATH | OpenFlags.POSC
    with _directories_made():
        check(remote.open(url, flags, _MODE, timeout=_limit(around))[0], url)
    return remote


@contextlib.contextmanager
def _directories_made() -> Iterator[None]:
    """Turn what cannot be missing, since it shall be made, into Denied."""
    try:
        yield
    except FileMissing as error:
        raise Denied(f"{error}: its directory cannot be made") from error


@contextlib.contextmanager
def _written_in_pages(side: Side, content: Content, around: Around, *, overwrite: bool) -> Iterator[None]:
    if not overwrite:
        _refuse_existing(side, around)
    remove = functools.partial(delete, side, around)
    with deleted_on_error(remove, spared=_REFUSED), _directories_made():
        xroot_jobs.send(side.url, content, around, functools.partial(_quietly, remove), overwrite=overwrite)
    with deleted_on_error(remove, spared=()):
        yield


def _looked(url: str, around: Around) -> Any:
    system, path = _place(url)
    status, found = system.stat(path, timeout=_limit(around))
    check(status, url)
    return found


def _walk(system: Any, folder: str, parameters: str, prefix: str, around: Around) -> Iterator[Entry]:
    where = f"{folder}/{prefix}"
    status, found = system.dirlist(where + parameters, DirListFlags.STAT, timeout=_limit(around))
    check(status, where)
    for entry in sorted(found, key=lambda entry: entry.name):
        path, flags = prefix + entry.name, entry.statinfo.flags if entry.statinfo else 0
        if "/" in entry.name or entry.name in {"", ".", ".."}:
            raise TransferFailed(f"{where}: the server lists a file as {entry.name!r}")
        if flags & StatInfoFlags.IS_DIR:
            yield from _walk(system, folder, parameters, path + "/", around)
        elif flags & StatInfoFlags.OTHER:
            raise TransferFailed(f"{folder}/{path}: neither a regular file nor a directory")
        else:
            yield Entry(path, int(entry.statinfo.size) if entry.statinfo else None)


def _checksum(url: str, around: Around, kind: str, size: int) -> str | None:
    """The server's checksum of its file; None if it keeps none."""
    system, path = _place(url)
    wanted = f"{path}{'&' if '?' in path else '?'}cks.type={kind}"
    limit_s = min(int(around.verify_s(size)), xroot_jobs.LONGEST_S)
    status, response = system.query(QueryCode.CHECKSUM, wanted, timeout=limit_s)
    if not status.ok and denied(status):
        return None  # who may look at a file need not be one who may read it
    if not status.ok and refused(status):
        if kind not in _kept(_server(url), _limit(around)):
            return None
        raise Unreachable(f"{plain(url)}: no {kind} came, though the server keeps them: {plain(status.message)}")
    check(status, url)
    told, _, value = bytes(response).rstrip(b"\0 \n").decode("ascii", "replace").partition(" ")
    return value.strip().lower().rjust(8, "0") if told.lower() == kind else None


def _unprotected(side: Side, around: Around) -> bool:
    """Whether nothing would tell a flipped bit: no TLS, and no checksum that the server could be asked for."""
    return side.scheme != "roots" and "adler32" not in _kept(_server(side.url), _limit(around))


@functools.cache
def _kept(server: str, limit_s: int) -> frozenset[str]:
    """The kinds of checksum that a server keeps."""
    status, response = client.FileSystem(server).query(QueryCode.CONFIG, "chksum", timeout=limit_s)
    if not status.ok and refused(status):
        return frozenset()
    check(status, server)
    told = bytes(response).rstrip(b"\0 \n").decode("ascii", "replace").lower()  # "0:adler32,1:md5", or "chksum"
    return frozenset(part.rpartition(":")[2].strip() for part in told.split(","))


def _note(url: str, report: Report) -> None:
    """Say once for each server that its files come with page checksums, or with none."""
    server = _server(url)
    if server not in _noted:
        _noted.add(server)
        report.note("the server keeps no checksums: its files are read with a checksum of each page", url=plain(server))


def _refuse_existing(side: Side, around: Around) -> None:
    with contextlib.suppress(FileMissing, Denied):  # who may not look may still be allowed to write
        _looked(side.url, around)
        raise Exists(f"{plain(side.url)}: it is there already")


def _quietly(remove: functools.partial[None]) -> None:
    with contextlib.suppress(Exception):
        remove()


def _place(url: str) -> tuple[Any, str]:
    """The server, and the path there with its parameters."""
    return client.FileSystem(_server(url)), client.URL(url).path_with_params


def _server(url: str) -> str:
    parts = client.URL(url)
    return f"{parts.protocol}://{parts.hostid}"


def _limit(around: Around) -> int:
    """How long a server may take for one answer; the library wants whole seconds, and 0 would be for ever."""
    return max(1, min(round(around.idle_s), xroot_jobs.LONGEST_S))
