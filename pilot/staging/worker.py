"""The lane: a child process that moves one file at a time, as its parent asks on stdin.

One JSON object per line, ``{id, op, source, destination, size, checksum, credential, link}`` down, and up
``{id, progress}``, ``{id, verifying}``, and at last ``{id, done}`` or ``{id, error}``. ``op`` is copy, delete
(of ``destination``) or warm (imports for ``schemes``). A process, since a stalled xrootd call can be ended by
nothing but SIGKILL, and since what these libraries allocate must be gone when the payload runs.

Nothing heavy is imported before a request needs it: the lane's start is on the way to the first byte.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator
from typing import Any, Protocol

from pilot.processes.child import Answers, die_with, take_pipes
from pilot.staging.order import WEB, XROOT, Around, Done, Order, Report, plain, scheme_of
from pilot.values.errors import StageError, TransferFailed

_PROGRESS_EVERY_S = 0.2


class Tool(Protocol):
    """What each protocol's module offers; one side of every order is a local file."""

    def fetch(self, order: Order, report: Report, around: Around, /) -> Done:
        """Bring ``order.source`` to the local ``order.destination``."""

    def store(self, order: Order, report: Report, around: Around, /) -> Done:
        """Bring the local ``order.source`` to ``order.destination``, and verify it there."""

    def delete(self, url: str, around: Around, /) -> None:
        """Remove a file from storage."""


def main() -> None:
    """Serve requests until the parent closes the pipe, or has had none for ``keep_s`` seconds."""
    parent = os.environ.get("PILOT_LANE_PARENT")
    die_with(int(parent) if parent is not None else None)
    asked, answers = take_pipes()
    around = Around.read(os.environ)
    try:
        answers.send({"ready": True})
        for line in _lines(asked, around.keep_s):
            _serve(json.loads(line), answers, around)
    except BrokenPipeError:
        pass  # the parent closed its end: nobody is left to work for
    # Without the interpreter's clean-up: xrootd's threads have been seen to hold it up.
    os._exit(0)


class _Progress:
    """Tells the parent of moved bytes, five times a second at most."""

    def __init__(self, ident: Any, answers: Answers) -> None:
        self._ident = ident
        self._answers = answers
        self._next = 0.0

    def moved(self, total_bytes: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_EVERY_S
            self._answers.send({"id": self._ident, "progress": total_bytes})

    def verifying(self, size: int) -> None:
        self._answers.send({"id": self._ident, "verifying": size})


def _serve(message: dict[str, Any], answers: Answers, around: Around) -> None:
    """Do what one line asks for, and answer it."""
    ident = message.get("id")
    try:
        result = _do(message, _Progress(ident, answers), around)
    except StageError as error:
        answers.send({"id": ident, "error": {"kind": error.kind, "message": plain(str(error))}})
    except BrokenPipeError:
        raise
    # The one place where everything is caught: a surprise costs this file, not the lane, and the parent's
    # only other way to learn of it would be the exit of the process.
    except Exception as error:  # noqa: BLE001
        text = plain(f"{type(error).__name__}: {error}")
        answers.send({"id": ident, "error": {"kind": TransferFailed.kind, "message": text}})
    else:
        if result is not None:
            answers.send({"id": ident, "done": result})


def _do(message: dict[str, Any], report: Report, around: Around) -> dict[str, Any] | None:
    match message.get("op"):
        case "copy":
            return _copy(Order.parse(message), report, around)._asdict()
        case "delete":
            url = message["destination"]
            _tool(scheme_of(url)).delete(url, around)
            return {}
        case "warm":
            for scheme in message["schemes"]:
                _tool(scheme)
            return None
        case other:
            raise TransferFailed(f"the lane does not know the operation {other!r}")


def _copy(order: Order, report: Report, around: Around) -> Done:
    source, destination = scheme_of(order.source), scheme_of(order.destination)
    if destination == "file" and (source != "file" or order.link):
        return _tool(source).fetch(order, report, around)
    if source == "file":
        return _tool(destination).store(order, report, around)
    raise TransferFailed(f"{plain(order.source)}: neither it nor {plain(order.destination)} is a local file")


def _tool(scheme: str) -> Tool:
    """The module that speaks ``scheme``, imported now (requests: 100 ms, xrootd: 45 ms and its threads)."""
    if scheme in WEB:
        from pilot.staging import http  # noqa: PLC0415

        return http
    if scheme in XROOT:
        from pilot.staging import xroot  # noqa: PLC0415

        return xroot
    if scheme == "file":
        from pilot.staging import posix  # noqa: PLC0415

        return posix
    raise TransferFailed(f"no lane speaks {scheme!r}")


def _lines(fd: int, keep_s: float) -> Iterator[bytes]:
    """Whole lines; ends at EOF, or when none came for ``keep_s``: an idle lane's memory is the payload's."""
    rest = b""
    while select.select([fd], [], [], keep_s)[0] and (data := os.read(fd, 1 << 16)):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


if __name__ == "__main__":
    main()
