"""The n-th crash loop and the n-th error loop: something breaks at the n-th call of a real pilot, for every n.

A point is one system call of one process, or one request: there strace kills the process or lets the call fail, or
the server's fault script spoils the answer. Then the pilot is started on the same volume until the job has its end
(`run` and `recover` take turns), and the promises are checked from outside: one end, no wrong `finished`, the
payload at most once, nothing left running, no traceback. `python -m tests.fault.loops --all` prints the table.

strace counts calls for each thread. So a kill is aimed at the main thread, which alone writes the journal; at the
reporter's thread by the calls that it alone makes (sendto, recvfrom); and at the lane, a process of its own. Errors
strike each thread of the pilot at its own n-th call.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pilot.runner import journal
from tests.checker import examine
from tests.facts import Facts, Pilot
from tests.fault.lives import INPUTS, LIFE_S, Life, Rig, Tap, rigged, until_gone

_LIVES = 6
_AIMS = 6
_BARE = ("EMFILE", "EAGAIN")
"""Where there is no descriptor, or no thread, to begin with, a pilot may say so as it likes."""
_SLOW_S = 2.5
_DOUBLE = 0.3
"""So many of the second lives of the crash loop are killed as well."""
_KILLED_AGAIN = ("write", "pwrite64", "fdatasync", "ftruncate", "unlinkat", "sendto", "recvfrom")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what breaks, and where.

    ``scope``: main (the pilot's main thread), pilot (all its threads), lane (its transfer process), server.
    ``fault``: KILL, the name of an errno, or what the server does. ``near``: a call counts only if its line in the
    trace says so. ``on``: every call from the n-th on fails.
    """

    kind: str
    fault: str
    scope: str
    calls: tuple[str, ...]
    near: str = ""
    on: bool = False

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.kind} {self.fault}{' from then on' if self.on else ''}: {self.scope} {'/'.join(self.calls)}"


@dataclass(frozen=True, slots=True)
class Point:
    """The ``n``-th of one call. ``aim`` is the file that it should strike, where it strikes one by its name."""

    row: Row
    call: str
    n: int
    aim: str = ""

    def __str__(self) -> str:
        return f"{self.row.kind} {self.row.fault} {self.row.scope} {self.call} {self.n}{'+' if self.row.on else ''}"


_VOLUME = r"\{base\}"
_HELD = rf"\(\d+<{_VOLUME}"  # the file behind the descriptor: no pipe's disk is full
_FILES = rf"{_VOLUME}|/proc/self|/proc/sys|/sys/"
_MADE = rf"{_VOLUME}.*O_CREAT"
_NAMES = ("mkdir", "rename", "unlink", "unlinkat", "rmdir", "ftruncate")

ROWS = (
    Row("crash", "KILL", "main", ("write", "pwrite64")),
    Row("crash", "KILL", "main", ("fsync", "fdatasync")),
    Row("crash", "KILL", "main", _NAMES),
    Row("crash", "KILL", "main", ("clone3", "clone", "vfork", "fork")),
    Row("crash", "KILL", "pilot", ("sendto", "sendmsg")),
    Row("crash", "KILL", "pilot", ("recvfrom",)),
    Row("crash", "KILL", "lane", ("write", "rename", "link", "unlink")),
    Row("crash", "KILL", "lane", ("sendto", "recvfrom")),
    Row("error", "ENOSPC", "main", ("write", "pwrite64", "fsync", "fdatasync", "fallocate"), _HELD),
    Row("error", "ENOSPC", "pilot", ("openat",), _MADE),
    Row("error", "ENOSPC", "pilot", ("mkdir", "rename")),
    Row("error", "ENOSPC", "main", ("pwrite64",), _HELD, on=True),
    Row("error", "EIO", "main", ("write", "pwrite64", "fsync", "fdatasync", "pread64"), _HELD),
    Row("error", "EIO", "pilot", ("openat",), _MADE),
    Row("error", "EIO", "main", ("fdatasync",), _HELD, on=True),
    Row("error", "EIO", "pilot", _NAMES),
    Row("error", "EROFS", "pilot", ("openat",), _MADE),
    Row("error", "EROFS", "pilot", _NAMES),
    Row("error", "EMFILE", "pilot", ("openat",), _FILES),
    Row("error", "EMFILE", "pilot", ("socket", "pipe2", "pidfd_open", "epoll_create1", "eventfd2")),
    Row("error", "EAGAIN", "pilot", ("clone3", "clone", "vfork", "fork")),
    Row("error", "ENOSPC", "lane", ("write", "openat", "rename"), _VOLUME),
    Row("error", "EIO", "lane", ("write", "openat", "read", "rename"), _VOLUME),
    Row("request", "ECONNRESET", "pilot", ("recvfrom",)),
    Row("request", "ETIMEDOUT", "pilot", ("recvfrom",)),
    Row("request", "ECONNRESET", "lane", ("recvfrom",)),
    Row("request", "ETIMEDOUT", "lane", ("recvfrom",)),
    Row("request", "drop_before", "server", ("any",)),
    Row("request", "drop_after", "server", ("any",)),
    Row("request", "status", "server", ("any",)),
    Row("request", "garbage", "server", ("any",)),
    Row("request", "no_database", "server", ("any",)),
    Row("request", "delay", "server", ("any",)),
    Row("request", "late", "server", ("any",)),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a point. ``struck`` is what broke, in the words of the trace; nothing if the run came through.

    ``seen_at``: where the file that was aimed at was seen, when it was another one that was struck; else 0.
    """

    point: Point
    outcome: str
    struck: tuple[str, ...]
    lives: int
    seconds: float
    broken: tuple[str, ...] = ()
    evidence: str = ""
    seen_at: int = 0


# A trial: break at one point, bring the job to its end, look at everything


def trial(point: Point, seed: int = 0) -> Result:
    """What becomes of the job when this point breaks."""
    dice = random.Random(f"{seed} {point}")
    began = time.monotonic()
    with rigged() as rig:
        if point.row.scope == "server":
            rig.ask("POST", "/local/faults", json=[_rule(point)])
        life = rig.live("run", "--max-jobs", 1, "--idle", 1, tap=_tap(point))
        struck = _struck(rig, life, point)
        rig.ask("POST", "/local/faults", json=[])
        if struck:
            _recover(rig, point, dice)
        rig.settle()
        broken = tuple(_broken(rig, point))
        evidence = _evidence(rig) if broken else ""
        seen_at = _seen_at(rig, life, point) if point.aim not in " ".join(struck) else 0
        return Result(point, rig.outcome(), struck, len(rig.lives), time.monotonic() - began, broken, evidence, seen_at)


def _tap(point: Point) -> Tap | None:
    """What strace has to do; nothing where it is the server that breaks."""
    if point.row.scope == "server":
        return None
    how = "signal=KILL" if point.row.fault == "KILL" else f"error={point.row.fault}"
    return Tap(point.row.scope, (point.call,), f"{how}:when={point.n}{'+' if point.row.on else ''}")


def aimed(point: Point, seed: int = 0) -> Iterator[Result]:
    """The same, and again while something else was struck: how many calls a look at /proc needs is not ours to say."""
    for _ in range(_AIMS):
        result = trial(point, seed)
        yield result
        if not result.seen_at:
            return
        point = replace(point, n=result.seen_at)


def _seen_at(rig: Rig, life: Life, point: Point) -> int:
    """The number of the aim among the calls of its thread; 0 if it was not seen."""
    for calls in _threads(life.trace.read_text(errors="replace").splitlines(), rig.base).values():
        for n, line in enumerate(calls.get(point.call, []), 1):
            if point.aim in line:
                return n
    return 0


def _rule(point: Point) -> dict[str, Any]:
    """For the server's fault script."""
    rule = {"match": "/", "do": point.row.fault, "nth": point.n}
    return rule | ({"seconds": _SLOW_S} if point.row.fault in ("delay", "late") else {})


def _struck(rig: Rig, life: Life, point: Point) -> tuple[str, ...]:
    """What broke, nothing if the pilot never came so far."""
    if point.row.scope == "server":
        (rule,) = rig.ask("GET", "/local/faults")["rules"]  # the log of requests knows of it only when it is over
        asked = [one for one in rig.ask("GET", "/local/requests")["requests"] if not one["path"].startswith("/local/")]
        struck = asked[len(INPUTS) + point.n - 1 :][: rule["met"] >= point.n]
        return tuple(f"{one['method']} {one['path']}" for one in struck)
    if not life.trace.exists():
        return ()
    lines = life.trace.read_text(errors="replace").splitlines()
    if point.row.fault == "KILL":
        # the call at which it was killed has no end, nor have those of other threads that were under way then
        return tuple(_plain(one, rig.base) for one in lines if re.search(r"= \?$|<unfinished", one))[-1:]
    return tuple(_plain(one, rig.base) for one in lines if "(INJECTED)" in one)


def _plain(line: str, base: Path) -> str:
    """A line of a trace without what differs from run to run."""
    line = re.sub(r"^\d+ +", "", line).replace(str(base), "{base}")
    return re.sub(r"job-(\d+-\d+)-[0-9a-f]{8}", r"job-\1", re.sub(r" = .*", "", line))[:160]


def _recover(rig: Rig, point: Point, dice: random.Random) -> None:
    """Lives on the same volume until the job has its end: at least one after a kill."""
    turns: list[tuple[object, ...]] = [("run", "--max-jobs", 1, "--idle", 0.2), ("recover",)]
    if point.n % 2:
        turns.reverse()
    again = _again(dice) if point.row.kind == "crash" and dice.random() < _DOUBLE else None
    due = rig.lives[0].code != 0
    while (due or not rig.is_over) and len(rig.lives) < _LIVES:
        life = rig.live(*turns[len(rig.lives) % 2], tap=again if len(rig.lives) == 1 else None)
        due = life.code < 0
        rig.settle()


def _again(dice: random.Random) -> Tap:
    """Kill the second life somewhere."""
    call = dice.choice(_KILLED_AGAIN)
    scope = "pilot" if call in ("sendto", "recvfrom") else "main"
    return Tap(scope, (call,), f"signal=KILL:when={dice.randint(1, 12 if call == 'write' else 6)}")


def _broken(rig: Rig, point: Point) -> Iterator[str]:
    """Every promise that was broken, and whatever else must not be."""
    yield from _broken_promises(rig)
    for number, life in enumerate(rig.lives, 1):
        if life.code == -signal.SIGALRM:
            yield f"life {number} was not over after {LIFE_S:g} s"
        said = life.said.read_text(errors="replace")
        if "--- Logging error ---" in said:
            yield f"life {number} has printed a traceback of logging"
        elif "Traceback" in said and point.row.fault not in _BARE:
            yield f"life {number} has printed a traceback"


def _broken_promises(rig: Rig) -> Iterator[str]:
    left = until_gone(rig.base)
    facts = Facts(
        abandoned=frozenset([rig.job]) if rig.is_lost else frozenset(),
        pilots=tuple(Pilot(None, one.began_at, None, one.gone_at) for one in rig.lives),
        survivors=tuple(left),
        runs_file=rig.runs,
    )
    found = examine(rig.server.url, facts, data=rig.base / "server", session=rig.session).violations
    yield from (str(one) for one in found if not _is_torn(rig, str(one)))
    runs = len(rig.runs.read_text().splitlines()) if rig.runs.exists() else 0
    state = rig.state["state"]
    if runs > 1:
        yield f"the payload was run {runs} times"
    if state == "finished" and runs != 1:
        yield f"finished, but the payload was run {runs} times"
    if not rig.is_over:
        yield f"the job has no end after {len(rig.lives)} lives: the server has it as {state}"
    elif rig.lives[-1].code and len(rig.lives) > 1:
        yield f"the last life has left with {rig.lives[-1].code}"


def _is_torn(rig: Rig, violation: str) -> bool:
    """Whether it is about an update that names no job since its sender was killed between headers and body."""
    seq = re.search(r"\(request (\d+)\) that names no job", violation)
    rows = rig.ask("GET", "/local/requests")["requests"]
    return seq is not None and any(one["seq"] == int(seq[1]) and not one["body"] for one in rows)


def _evidence(rig: Rig) -> str:
    """All that is needed to see what has happened."""
    parts = [json.dumps(rig.state, indent=1)]
    for number, life in enumerate(rig.lives, 1):
        parts += [f"--- life {number} left with {life.code}: {shlex.join(life.command)}"]
        parts += [life.said.read_text(errors="replace")[-6000:]]
    files = [rig.work / journal.NAME, *(one for life in rig.lives[:1] for one in [life.trace])]
    for file in files:
        if file.exists():
            parts += [f"--- {file}", file.read_text(errors="replace")[-4000:]]
    asked = rig.ask("GET", "/local/requests")["requests"]
    parts += [
        "--- requests",
        *(f"{o['seq']} {o['method']} {o['path']} {o['status']} {o['fault'] or ''}" for o in asked),
    ]
    return "\n".join(parts)


# The points: all of them, or a sample

Lines = dict[str, list[list[str]]]
"""For each call the lines of each thread, in their order."""


class Counted:
    """What a run without a fault does, counted once for each scope."""

    def __init__(self) -> None:
        self._known: dict[str, Lines] = {}

    def of(self, scope: str) -> Lines:
        """The calls of a scope."""
        if scope not in self._known:
            self._known[scope] = _requests() if scope == "server" else _calls(scope)
        return self._known[scope]

    def points(self, row: Row) -> list[Point]:
        """The points of a row, call by call."""
        found = []
        for call in row.calls:
            threads = self.of(row.scope).get(call, [])
            near = {n: line for lines in threads for n, line in enumerate(lines, 1) if re.search(row.near, line)}
            lines = [line for one in threads for line in one]
            found += [Point(row, call, n, _aim(near[n], lines)) for n in sorted(near)]
        return found


def _aim(line: str, lines: Iterable[str]) -> str:
    """The file that a call names, and what for, if that comes once."""
    name = re.match(r'openat\([^"]*("[^"]+", [A-Z_|]+)', line)
    return name[1] if name and sum(name[1] in one for one in lines) == 1 else ""


def _calls(scope: str) -> Lines:
    calls = tuple(dict.fromkeys(call for row in ROWS if row.scope == scope for call in row.calls))
    with rigged() as rig:
        life = rig.live("run", "--max-jobs", 1, "--idle", 1, tap=Tap(scope, calls))
        assert life.code == 0, life.said.read_text()
        lines = life.trace.read_text(errors="replace").splitlines()
        threads = _threads(lines, rig.base).values()
        return {call: [one[call] for one in threads if call in one] for call in calls}


def _threads(lines: Iterable[str], base: Path) -> dict[str, dict[str, list[str]]]:
    """A trace in order: by thread, by call."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        begun = re.match(r"(?:(\d+) +)?(\w+)\(", line)
        if begun:
            found.setdefault(begun[1] or "", {}).setdefault(begun[2], []).append(_plain(line, base))
    return found


def _requests() -> Lines:
    with rigged() as rig:
        before = len(rig.ask("GET", "/local/requests")["requests"])
        assert rig.live("run", "--max-jobs", 1, "--idle", 1).code == 0
        rows = rig.ask("GET", "/local/requests")["requests"][before:-1]
        return {"any": [[f"{one['method']} {one['path']}" for one in rows]]}


def every(row: Row, counted: Counted, seed: int) -> Iterator[Result]:
    """All points of a row: those that were counted, and where each call counts, on until a run comes through."""
    known = counted.points(row)
    for call in row.calls:
        last = 0
        for point in (one for one in known if one.call == call):
            last = point.n
            yield from aimed(point, seed)
        while not row.near:
            last += 1
            result = trial(Point(row, call, last), seed)
            yield result
            if not result.struck:
                break


def sample(kind: str, most: int, counted: Counted, seed: int) -> list[Point]:
    """Points of a kind, no row more often than the others."""
    dice = random.Random(seed)
    rows = [dice.sample(found, len(found)) for row in ROWS if row.kind == kind and (found := counted.points(row))]
    dice.shuffle(rows)
    turns = [point for turn in zip_longest(*rows) for point in turn if point is not None]
    return turns[:most]


# The program


def table(results: Iterable[Result]) -> str:
    """A line for each row: how many points have struck, what became of them, how long it took."""
    rows: dict[Row, list[Result]] = {}
    for one in results:
        rows.setdefault(one.point.row, []).append(one)
    return "\n".join(_line(row, found) for row, found in rows.items())


def _line(row: Row, found: list[Result]) -> str:
    struck = [one for one in found if one.struck]
    outcomes = Counter(one.outcome for one in struck)
    ends = ", ".join(f"{name} {number}" for name, number in sorted(outcomes.items()))
    broken = sum(bool(one.broken) for one in found)
    seconds = sum(one.seconds for one in found)
    return f"{row.name:<72} N={len(struck):<3} {seconds:5.0f} s  {ends}" + (f"  BROKEN {broken}" if broken else "")


def told(result: Result, seed: int) -> str:
    """One point, with everything that is needed to see it again where a promise was broken."""
    words = [
        f"{result.point}: {result.outcome}, {result.lives} lives, {result.seconds:.1f} s: {' | '.join(result.struck)}"
    ]
    if result.broken:
        again = f"python -m tests.fault.loops --at {shlex.quote(str(result.point))} --seed {seed}"
        words += [*(f"BROKEN: {one}" for one in result.broken), result.evidence, f"again: {again}"]
    return "\n".join(words)


def at(text: str) -> Point:
    """The point of its own words. ValueError if there is none."""
    for row in ROWS:
        for call in row.calls:
            found = re.fullmatch(re.escape(str(Point(row, call, 0))).replace("0", r"(\d+)"), text)
            if found:
                return Point(row, call, int(found[1]))
    raise ValueError(f"no such point: {text}")


def _chosen(options: argparse.Namespace) -> Iterator[Result]:
    if options.at:
        yield trial(at(options.at), options.seed)
        return
    counted = Counted()
    for kind in options.kind or ("crash", "error", "request"):
        if not options.all:
            yield from (trial(point, options.seed) for point in sample(kind, options.most, counted, options.seed))
            continue
        for row in ROWS:
            if row.kind == kind and options.row in row.name:
                yield from every(row, counted, options.seed)


def main() -> int:
    """The program: 0, or 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.fault.loops", description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", action="append", choices=("crash", "error", "request"), help="only this loop")
    parser.add_argument("--all", action="store_true", help="every point, not a sample")
    parser.add_argument("--row", default="", metavar="TEXT", help="with --all: only rows whose name has this")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="so many points of each kind  [10]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--at", metavar="POINT", help="one point, in the words of the output")
    parser.add_argument("--json", action="store_true", help="a JSON object for each point")
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    results = []
    for one in _chosen(options):
        results.append(replace(one, evidence=""))
        if options.json:
            print(json.dumps({**asdict(one), "point": str(one.point)}), flush=True)
        elif one.broken or options.at:
            print(told(one, options.seed), flush=True)
    if not options.json:
        print(table(results))
    return 1 if any(one.broken for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
