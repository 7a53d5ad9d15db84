"""The lane: a child process that moves one file at a time, as its parent asks on stdin.

One JSON object per line, ``{id, op, source, destination, size, checksum, credential, ...}`` down (`order.py`
reads it), and up ``{id, progress}``, ``{id, writing}`` (where half a file may be: ``target``, ``beside`` it, or "" for
nowhere), ``{id, verifying}``, ``{id, note}``, and at last ``{id, done}`` or ``{id, error}``. ``op`` is copy, delete (of
``destination``), find (the files at ``source``) or warm (imports for ``schemes``). Orders may be sent ahead: they are
done in their order.

A process, since a stalled xrootd call can be ended by nothing but SIGKILL, and since what these libraries
allocate must be gone when the payload runs. Nothing heavy is imported before a request needs it: the lane's
start is on the way to the first byte.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator
from typing import Any

from pilot.processes.child import Answers, die_with, take_pipes
from pilot.staging.order import Around, Order, Report, plain, side
from pilot.staging.worker.copy import copy, find, tool
from pilot.values.errors import StageError, TransferFailed, Unreachable

_PROGRESS_EVERY_S = 0.2


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

    def __init__(self, ident: Any, answers: Answers, target: str) -> None:
        self._ident = ident
        self._target = target
        self._answers = answers
        self._next = 0.0

    def moved(self, total_bytes: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_EVERY_S
            self._answers.send({"id": self._ident, "progress": total_bytes})

    def writing(self, url: str) -> None:
        # in a word: the URL may hold a secret, and our parent knows it
        where = "" if not url else "target" if url == self._target else "beside"
        self._answers.send({"id": self._ident, "writing": where})

    def verifying(self, size: int) -> None:
        self._answers.send({"id": self._ident, "verifying": size})

    def note(self, text: str, **keys: object) -> None:
        self._answers.send({"id": self._ident, "note": text, "keys": keys})


def _serve(message: dict[str, Any], answers: Answers, around: Around) -> None:
    """Do what one line asks for, and answer it."""
    ident = message.get("id")
    try:
        result = _do(message, _Progress(ident, answers, message.get("destination", "")), around)
    except StageError as error:
        told = {"kind": error.kind, "message": plain(str(error)), "pause_s": error.pause_s}
        answers.send({"id": ident, "error": told})
    except BrokenPipeError:
        raise
    # The one place where everything is caught: a surprise costs this file, not the lane, and the parent's
    # only other way to learn of it would be the exit of the process.
    except Exception as error:  # noqa: BLE001
        from pilot.processes.starting import is_scarce  # noqa: PLC0415 - wanted here only

        text = plain(f"{type(error).__name__}: {error}")
        kind = Unreachable if is_scarce(error) else TransferFailed  # no thread, or no memory: in a while there may be
        answers.send({"id": ident, "error": {"kind": kind.kind, "message": text}})
    else:
        if result is not None:
            answers.send({"id": ident, "done": result})


def _do(message: dict[str, Any], report: Report, around: Around) -> Any:
    match message.get("op"):
        case "copy":
            began = time.monotonic()
            done = copy(Order.parse(message), report, around)
            return {**done._asdict(), "seconds": time.monotonic() - began}
        case "delete":
            target = side(message, "destination")
            tool(target.scheme).delete(target, around)
            return {}
        case "find":
            return [entry._asdict() for entry in find(side(message, "source"), around)]
        case "warm":
            for scheme in message["schemes"]:
                tool(scheme)
            return None
        case other:
            raise TransferFailed(f"the lane does not know the operation {other!r}")


def _lines(fd: int, keep_s: float) -> Iterator[bytes]:
    """Whole lines; ends at EOF, or when none came for ``keep_s``: an idle lane's memory is the payload's."""
    rest = b""
    while select.select([fd], [], [], keep_s)[0] and (data := os.read(fd, 1 << 16)):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


if __name__ == "__main__":
    main()
