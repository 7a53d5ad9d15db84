"""Journals that were damaged or forged, and what becomes of their job, on the world of the schedules.

A pilot lives until it dies behind the record of a kind; then somebody has the file, and the next life comes, that of
`pilot run` or of `pilot recover`. The truth is known: how the payload ended, and what it wrote.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot.runner.journal import NAME, Kind, read
from pilot.runner.recovery import recover
from tests.fault.schedules.judge import judge
from tests.fault.schedules.script import Life, Script
from tests.fault.schedules.server import SITE
from tests.fault.schedules.world import RESOURCES, Make, World

VICTIM = "somebody's"
"""A directory beside the volume."""

Lines = list[bytes]


def line(**record: Any) -> bytes:
    """A record with a right checksum, in the oldest form."""
    text = json.dumps({"time": 1.7e9, **record}).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def record_of(one: bytes) -> dict[str, Any]:
    """What a line says."""
    return json.loads(one.partition(b" ")[2])


def changed(one: bytes, **facts: Any) -> bytes:
    """A line with other facts, and the checksum that fits them."""
    return line(**{**record_of(one), **facts})


def where(lines: Lines, kind: str) -> int:
    """The last record of a kind."""
    return max(number for number, one in enumerate(lines) if record_of(one)["kind"] == kind)


# --- what may happen to one record ---------------------------------------------------------------------


def _flipped(lines: Lines, at: int) -> Lines:
    middle = len(lines[at]) // 2
    one = bytearray(lines[at])
    one[middle] ^= 1
    return [*lines[:at], bytes(one), *lines[at + 1 :]]


def _cut(lines: Lines, at: int) -> Lines:
    return [*lines[:at], lines[at][: len(lines[at]) // 2]]


def _hole(lines: Lines, at: int) -> Lines:
    return [*lines[:at], lines[at][: len(lines[at]) // 2], *lines[at + 1 :]]


def _repeated(lines: Lines, at: int) -> Lines:
    return [*lines[:at], lines[at], lines[at], *lines[at + 1 :]]


def _moved(lines: Lines, at: int) -> Lines:
    return [*lines[:at], *lines[at + 1 :], lines[at]]


def _lost(lines: Lines, at: int) -> Lines:
    return [*lines[:at], *lines[at + 1 :]]


def _unknown(lines: Lines, at: int) -> Lines:
    return [*lines[:at], changed(lines[at], kind="quantum"), *lines[at + 1 :]]


def _mistyped(lines: Lines, at: int) -> Lines:
    """Every fact of the record as something else than it was."""
    wrong = {name: _other(value) for name, value in record_of(lines[at]).items() if name not in ("kind", "time")}
    return [*lines[:at], changed(lines[at], **wrong), *lines[at + 1 :]]


def _other(value: object) -> object:
    return {"a": [value]} if isinstance(value, str | int | float) else 7


def _empty(lines: Lines, at: int) -> Lines:
    return [*lines[:at], line(kind=record_of(lines[at])["kind"]), *lines[at + 1 :]]


MUTATIONS: dict[str, Callable[[Lines, int], Lines]] = {
    "bit flipped": _flipped,
    "cut": _cut,
    "a piece lost": _hole,
    "repeated": _repeated,
    "moved to the end": _moved,
    "lost": _lost,
    "unknown kind": _unknown,
    "wrong types": _mistyped,
    "without facts": _empty,
}


# --- what a payload may add or change, and end its pilot -----------------------------------------------


def _exited(**more: Any) -> bytes:
    return line(kind="exited", exit_code=0, cpu_s=0.1, max_rss_kib=9, seconds=1.0, stopped=False, **more)


def _stored(lfn: str, url: str) -> bytes:
    return line(
        kind="stored", lfn=lfn, guid="ab", size=5, checksum="adler32:00000001", url=url, endpoint="LOCAL_STORE"
    )  # fmt: skip


def _final(report: object) -> bytes:
    fields = {"job_status": "finished", "trans_exit_code": 0, "pilot_error_code": 0}
    return line(kind="final", fields={**fields, "job_output_report": json.dumps(report)})


def _claimed(lines: Lines) -> tuple[Lines, dict[str, Any]]:
    """That each output lies at its destination, and as a final would list it."""
    places = record_of(lines[where(lines, "planned")])["destinations"]
    stored = [_stored(lfn, ways[0][0]) for lfn, ways in places.items()]
    listed = {
        lfn: {"guid": "ab", "fsize": 5, "adler32": "00000001", "surl": ways[0][0]} for lfn, ways in places.items()
    }
    return stored, listed


def _in_place_of(lines: Lines, kind: str, **facts: Any) -> Lines:
    at = where(lines, kind)
    return [*lines[:at], changed(lines[at], **facts), *lines[at + 1 :]]


def _without_seal(lines: Lines) -> Lines:
    at = where(lines, "taken")
    taken = {name: value for name, value in record_of(lines[at]).items() if name != "seal"}
    return [*lines[:at], line(**taken), *lines[at + 1 :]]


def _elsewhere(lines: Lines) -> Lines:
    places = record_of(lines[where(lines, "planned")])["destinations"]
    return _in_place_of(
        lines,
        "planned",
        destinations={lfn: [[f"http://evil.example/{lfn}", "LOCAL_STORE", None]] for lfn in places},
        trusted=["evil.example"],
    )


FORGERIES: dict[str, Callable[[Lines, Path], Lines]] = {
    "exit status": lambda lines, _: [*lines, _exited()],
    "exit status with a seal": lambda lines, _: [*lines, _exited(seal="ab" * 16)],
    "exit status of an old form": lambda lines, _: [*_without_seal(lines), _exited()],
    "stored files": lambda lines, _: [*lines, _exited(), *_claimed(lines)[0]],
    "stored files of an old form": lambda lines, _: [*_without_seal(lines), _exited(), *_claimed(lines)[0]],
    "final": lambda lines, _: [*lines, _final(_claimed(lines)[1])],
    "final of nothing": lambda lines, _: [*lines, _final({})],
    "whole story": lambda lines, _: [
        *_without_seal(lines),
        _exited(),
        *_claimed(lines)[0],
        _final(_claimed(lines)[1]),
    ],
    "end": lambda lines, _: [*lines, line(kind="ended", verdict="stored")],
    "final and end": lambda lines, _: [*lines, _final({}), line(kind="ended", verdict="stored")],
    "places": lambda lines, _: [*_elsewhere(lines), _exited()],
    "area": lambda lines, base: _in_place_of(lines, "taken", area=str(base / VICTIM)),
    "area of the right form": lambda lines, base: _in_place_of(
        lines, "taken", area=str(base / VICTIM / "job-1-1-00000000")
    ),
    "area that climbs": lambda lines, base: _in_place_of(
        lines, "taken", area=str(base / "work" / "job-1-1-00000000" / ".." / ".." / VICTIM)
    ),
    "another job": lambda lines, _: [*lines, line(kind="taken", job=4711, attempt=1, identity={})],
    "a point": lambda lines, _: [*lines, line(kind="point", point="1", step="closed", loss=0.1, event="1-1-1-1-1")],
    "a stop": lambda lines, _: [*lines, line(kind="stop", reason="preempted")],
    "a new life": lambda lines, _: [*lines, line(kind="life", life="x", pid=1, settings={}), _exited()],
    "that it left": lambda lines, _: [*lines, line(kind="left", code=0)],
    "damage": lambda lines, _: [*lines, line(kind="damaged", what="x" * 5000, as_name="/etc/passwd")],
    "usage": lambda lines, _: [*lines, line(kind="usage", memory_bytes=1, limit_bytes=1, oom_kills=0, usage={})],
    "processes": lambda lines, _: [*lines, line(kind="started", proof={"mark": "ab" * 16, "pid": 1})],
    "storing": lambda lines, _: [*lines, line(kind="storing", files=["0.out"], destinations={})],
    "a question": lambda lines, _: [*lines, line(kind="asking"), line(kind="nothing", lost=5)],
}


# --- lives -------------------------------------------------------------------------------------------


def _recovered(_world: World, pod: Any, story: Any) -> None:
    """`pilot recover` in place of `pilot run`."""
    recover(story, RESOURCES, pod, lambda _pod: SITE)


COMMANDS = {"run": Make(), "recover": Make(live=_recovered)}


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a job: the promises that were broken, its state at the server, the texts of its finals."""

    violations: tuple[str, ...]
    state: str
    diags: tuple[str, ...]
    victim_lives: bool
    copies: int


@contextlib.contextmanager
def died(folder: Path, behind: str, command: str, **script: Any) -> Iterator[World]:
    """A world whose pilot has died behind this record."""
    (folder / VICTIM).mkdir()
    (folder / VICTIM / "file").write_text("precious")
    world = World(folder, Script(outputs=2, **script), make=COMMANDS[command])
    with contextlib.closing(world):
        live, world.make = world.make, COMMANDS["run"]
        world.live(Life({f"{behind}>": "crash"}))
        world.make = live
        yield world


def lines_of(world: World) -> Lines:
    return (world.work / NAME).read_bytes().splitlines(keepends=True)


def told(world: World, lines: Lines, folder: Path) -> Told:
    """What becomes of the job when the journal is this."""
    (world.work / NAME).write_bytes(b"".join(lines))
    world.live(Life())
    world.server.calm()
    if Kind.TAKEN not in [record_of(one)["kind"] for one in lines if one.endswith(b"\n") and is_whole(one)]:
        world.server.expire()  # nothing is left that tells of the job
    result = judge(world)
    attempt = next(one for one in result.attempts if one.job == world.job)
    return Told(
        tuple(map(str, result.violations)),
        world.server.record(world.job).status,
        tuple(str(one.sent.get("pilot_error_diag")) for one in attempt.finals),
        (folder / VICTIM / "file").read_text() == "precious",
        len(list(world.work.glob("journal.damaged-*"))),
    )


def is_whole(one: bytes) -> bool:
    """Whether its checksum is right."""
    crc, _, text = one.partition(b" ")
    return crc == b"%08x" % zlib.crc32(text[:-1])


def is_closed(world: World) -> bool:
    """Whether nothing is left to be done on the volume."""
    kinds = [one["kind"] for one in read(world.work)]
    return Kind.TAKEN not in kinds or Kind.ENDED in kinds
