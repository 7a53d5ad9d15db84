"""The verdict on one evaluation: what its files and its exit status say (hpo-contract.md 4.5, 5.1, 10.4)."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pilot.files.folder import Folder
from pilot.files.kept import KeptFile
from pilot.files.opening import NotRegular, folder_of, open_file, open_folder
from pilot.values.decoding import LOOSE, Rules, decode_json
from pilot.values.errors import Garbled, NotJson
from pilot.values.hpo import PointWork, finite
from pilot.values.outcome import PayloadEnd

_MOST_ANSWER = 1 << 20
_MOST_META = 1 << 20
_METADATA = Rules(twice=True)  # it goes on to the server, in JSON without odd numbers
_TAIL = 1 << 16
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)

_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|torch\.(cuda\.)?OutOfMemoryError"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED: Out of memory|\bOOM when allocating"
)
"""How PyTorch, TensorFlow, JAX and the CUDA libraries say that a device has no more memory."""


class Kind(StrEnum):
    """How an evaluation ended."""

    MEASURED = "measured"
    REFUSED = "refused"
    FAILED = "failed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    LOST = "lost"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``loss`` is finite where something was measured; ``why`` one line else."""

    kind: Kind
    loss: float | None = None
    why: str = ""
    fatal: bool = False
    pruned: bool = False
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def judge(open_work: Callable[[], Folder], asked: PointWork, end: PayloadEnd, stderr: KeptFile) -> Verdict:
    """What an evaluation that ended by itself has said. A valid answer counts whatever the exit status (4.5)."""
    answer, complaint = _answer(open_work, asked.output_file)
    if answer is not None:
        status = answer.get("status", 0)
        message = " ".join(str(answer.get("message", "")).split())[:200]
        if status not in (0, "0", None, False):
            why = f"the evaluation answers status {str(status)[:40]}" + (f": {message}" if message else "")
            return Verdict(Kind.REFUSED, why=why, fatal=message.startswith("fatal:"))
        loss = finite(answer.get("loss"))
        if loss is not None:
            return Verdict(Kind.MEASURED, loss, meta=_meta(open_work, asked.meta_file))
        complaint = f"its loss is {str(answer.get('loss', 'missing'))[:40]}, and not a finite number"
    if _out_of_memory(end, stderr):
        return Verdict(Kind.MEMORY, why=f"the evaluation ran out of memory: {stderr.last_line() or how(end)}")
    if end.gpu_lost:
        return Verdict(Kind.LOST, why=end.gpu_lost)
    words = stderr.last_line()
    return Verdict(Kind.FAILED, why=f"{how(end)}, {complaint}" + (f"; its last words: {words}" if words else ""))


def left_behind(work: Path, output_file: str) -> float | None:
    """The loss in a complete answer that an evaluation has left, whose end nobody has seen; None without."""
    answer, _ = _answer(lambda: Folder(open_folder(str(work))), output_file)
    if answer is None or answer.get("status", 0) not in (0, "0", None, False):
        return None
    return finite(answer.get("loss"))


def how(end: PayloadEnd) -> str:
    """How a process ended, for people."""
    if end.exit_code < 0:
        return f"the evaluation was ended by signal {-end.exit_code}"
    return f"the evaluation exited with {end.exit_code}"


def _answer(open_work: Callable[[], Folder], name: str) -> tuple[dict[str, Any] | None, str]:
    """The answer's object; or None, and what is wrong with it."""
    try:
        text = _read(open_work, name, _MOST_ANSWER + 1)
    except NotRegular as error:
        return None, f"and what has the name {name} is {error.strerror}"
    except OSError:
        return None, f"and left no {name}"
    if len(text) > _MOST_ANSWER:
        return None, f"{name} is larger than 1 MiB"
    try:
        value = decode_json(text, LOOSE)
    except Garbled as error:
        return None, f"{name} is not JSON" + ("" if isinstance(error, NotJson) else f" as it should be: {error}")
    return (value, "") if isinstance(value, dict) else (None, f"{name} is no object")


def _meta(open_work: Callable[[], Folder], name: str) -> Mapping[str, Any]:
    """What goes into the job's metadata; nothing where it is no object, or too large."""
    try:
        text = _read(open_work, name, _MOST_META + 1)
    except OSError:
        return {}
    if len(text) > _MOST_META:
        return {}
    try:
        value = decode_json(text, _METADATA)
    except Garbled:
        return {}
    return value if isinstance(value, dict) else {}


def _read(open_work: Callable[[], Folder], name: str, most_bytes: int) -> bytes:
    """The beginning of a file that the evaluation has left. Raises OSError.

    A link is followed to another file of its directory, and nowhere else: an evaluation in another container would
    see by our eyes, and what is read goes on to the server.
    """
    with open_work() as work:
        with suppress(OSError):
            name = os.path.relpath(os.readlink(name, dir_fd=work.fd), _base(work, name))
        with folder_of(name, at=work.fd) as (at, last), closing(KeptFile(open_file(last, at=at, links=0))) as file:
            return file.read(most_bytes)


def _base(work: Folder, name: str) -> str:
    """What a link's text is relative to."""
    return str(work.path) if os.readlink(name, dir_fd=work.fd).startswith("/") else "."


def _out_of_memory(end: PayloadEnd, stderr: KeptFile) -> bool:
    killed = end.exit_code in _KILLED and end.memory is not None and end.memory.oom_kills > 0
    return killed or (end.exit_code != 0 and _OUT_OF_MEMORY.search(stderr.tail(_TAIL)) is not None)
