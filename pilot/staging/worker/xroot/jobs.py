"""Copies that the XRootD library makes by itself: between two servers, and with a checksum of each page.

Page checksums (kXR_pgread, kXR_pgwrite) protect the wire where nothing else would: a page that comes with a
flipped bit is sent again. The bindings offer them in `CopyProcess` only, which wants files at both ends, or
the descriptors 0 and 1: those are pipes to us while it runs. A server that falls silent then makes the library
begin again for ever, whatever the limits say: only the parent ends that, by the end of this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from XRootD import client as _client

from pilot.staging.order import Around, plain
from pilot.staging.worker.tool import Content
from pilot.staging.worker.xroot.errors import check
from pilot.values.errors import TransferFailed, Unreachable

LONGEST_S = 0xFFFF
"""The library keeps limits in 16 bits."""

_STDIO = "stdio://-"
_PIPE_BYTES = 1 << 20
_CHUNK_BYTES = 4 << 20
_AT_ONCE = 4

client: Any = _client  # the bindings say that they are typed, and are not


def between(source: str, target: str, around: Around, moved: Callable[[int], None], *, overwrite: bool) -> None:
    """Let the target's server fetch a file from the source's; ``moved`` is told how many bytes there are."""
    _Job(moved).run(source, target, around, overwrite=overwrite, thirdparty="only")


class Paged:
    """A remote file by page reads, in pieces; to be iterated once."""

    def __init__(self, url: str, around: Around) -> None:
        self._url = url
        self._around = around

    def __iter__(self) -> Iterator[bytes]:
        out, into = _pipe()
        with open(out, "rb", buffering=0) as pipe, contextlib.ExitStack() as stack:  # noqa: PTH123 - a descriptor
            job = _Background(1, into, lambda: _Job().run(self._url, _STDIO, self._around, overwrite=True))
            stack.callback(job.end)
            stack.callback(pipe.close)  # first: if we leave early, that ends the job
            while chunk := pipe.read(_PIPE_BYTES):
                yield chunk
            job.result()


def send(url: str, content: Content, around: Around, abandon: Callable[[], None], *, overwrite: bool) -> None:
    """Write a remote file by page writes. ``abandon`` is called if its content breaks off."""
    out, into = _pipe()
    copying = _Job()
    with contextlib.ExitStack() as stack:
        pipe = stack.enter_context(open(into, "wb", buffering=0))  # noqa: PTH123 - a descriptor
        job = _Background(0, out, lambda: copying.run(_STDIO, url, around, overwrite=overwrite, posc=True))
        try:
            complete = all(_passed(pipe, chunk) for chunk in content)
        except BaseException:
            # The end of the pipe alone would look like the end of the file. The library asks whether to go on
            # after each chunk: so there has to be one more.
            copying.cancelled = True
            _passed(pipe, b"\0")
            pipe.close()
            job.end()
            abandon()
            raise
        pipe.close()
        job.result()
        if not complete:
            raise TransferFailed(f"{plain(url)}: it took a part only")


class _Job:
    """One copy by the library, and what it may call meanwhile: an exception there would break it, so none leaves."""

    def __init__(self, moved: Callable[[int], None] | None = None) -> None:
        self._moved = moved
        self._most = 0
        self._error: Exception | None = None
        self.cancelled = False

    def run(
        self, source: str, target: str, around: Around, *, overwrite: bool, thirdparty: str = "none", posc: bool = False
    ) -> None:
        where = target if source == _STDIO or thirdparty != "none" else source
        process = client.CopyProcess()
        # All of them: a default is read from the environment when the library is imported.
        process.add_job(
            source,
            target,
            sourcelimit=1,
            force=overwrite,
            posc=posc,
            coerce=False,
            mkdir=True,
            thirdparty=thirdparty,
            checksummode="none",
            checksumtype="",
            checksumpreset="",
            dynamicsource=False,
            chunksize=_CHUNK_BYTES,
            parallelchunks=_AT_ONCE,
            inittimeout=max(1, round(around.idle_s)),
            tpctimeout=LONGEST_S,  # the parent has the limits, and sees that bytes move
            rmBadCksum=True,
            cptimeout=0,
            xrateThreshold=0,
            xrate=0,
            retry=0,
            cont=False,
            rtrplc="force",
        )
        check(process.prepare(), where)
        status, results = process.run(self)
        if self._error is not None:
            raise self._error
        check(results[0]["status"] if results else status, where)

    def begin(self, *_job: object) -> None:
        pass

    def end(self, *_job: object) -> None:
        pass

    def update(self, _job: int, processed: int, _total: int) -> None:
        """Tell of bytes that are new: a copy that stands still is called for as well."""
        if self._moved is None or processed <= self._most:
            return
        self._most = processed
        try:
            self._moved(processed)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._error = error
            self.cancelled = True

    def should_cancel(self, _job: int) -> bool:
        return self.cancelled


class _Background:
    """A copy in a thread, with a pipe of ours in the place of the descriptor that the library uses."""

    def __init__(self, fd: int, end: int, work: Callable[[], None]) -> None:
        self._fd = fd
        self._kept = os.dup(fd)
        self._work = work
        self._error: BaseException | None = None
        os.dup2(end, fd)
        os.close(end)
        self._thread = threading.Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._restore()
            raise Unreachable(f"no thread for a copy by xrootd: {error}") from error

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._error = error
        finally:
            self._restore()

    def _restore(self) -> None:
        os.dup2(self._kept, self._fd)  # closes the pipe's end: so the other side learns of it
        os.close(self._kept)

    def end(self) -> None:
        """Wait for it."""
        self._thread.join()

    def result(self) -> None:
        """Wait for it; raises what it has raised."""
        self.end()
        if self._error is not None:
            raise self._error


def _pipe() -> tuple[int, int]:
    out, into = os.pipe()
    with contextlib.suppress(OSError):  # more than a user may have
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return out, into


def _passed(pipe: BinaryIO, chunk: bytes) -> bool:
    """Whether the other side took it."""
    view = memoryview(chunk)
    try:
        while view:
            view = view[pipe.write(view) :]
    except BrokenPipeError:
        return False
    return True
