"""Script: what happens in one schedule, all of it from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pilot.embedded.faults import Kind as Fault
from pilot.embedded.faults import Rule
from pilot.values.errors import STAGE_KINDS

REFUSED = '{"success": false, "message": "Type error: x", "data": null}'
_TIMED_OUT = '{"success": true, "message": "Timed out", "data": {"StatusCode": 10}}'


@dataclass(frozen=True, slots=True)
class Move:
    """What happens to one transfer: it takes ``seconds``, and fails of ``error`` ("" for not)."""

    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of the pilot: what happens at which point, at its n-th transfer, and how long its payload runs.

    A point is a number, or a name: that of a record, a call, or the state of a final, with ``<`` before it and ``>``
    after it, and a number where it is not the first of this name (``stored>``, ``failed<2``).

    It begins ``after_s`` seconds after the end of the one before.

    Events: ``crash`` and ``tear`` (the record that is just written is torn), ``stop`` and ``hurry``, ``taken`` (the
    server gives the attempt away), ``kill``, ``drain``, and ``away S``: the server cannot be reached for S seconds.
    """

    events: Mapping[int | str, str] = field(default_factory=dict)
    moves: Mapping[int, Move] = field(default_factory=dict)
    payload_s: float = 0.0
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """A whole schedule.

    ``watching``: a server that cannot be reached ends silent jobs (a partition); else it is down, and does not.
    ``prompt``: it judges a final before the next request. ``rival``: another pilot takes what is given away.
    ``lost``: the volume is lost with the last life. ``jobs_left``: attempts that the server allows.
    """

    inputs: int = 0
    outputs: int = 1
    exit_code: int = 0
    missing: bool = False
    walltime_s: int | None = None
    attempts: int = 0
    lives: tuple[Life, ...] = (Life(),)
    rules: tuple[Rule, ...] = ()
    watching: bool = True
    prompt: bool = True
    rival: bool = True
    lost: bool = False

    @property
    def good(self) -> bool:
        """Whether the payload does what it shall."""
        return self.exit_code == 0 and not (self.missing and self.outputs)


def script_of(seed: int) -> Script:
    """The schedule of a seed: every other one has a theme."""
    rng = random.Random(seed)
    script = _any(rng)
    theme = rng.choice((None, None, None, _final_lost, _late_crash, _silence))
    return theme(rng, script) if theme else script


def _any(rng: random.Random) -> Script:
    return Script(
        inputs=rng.randrange(3),
        outputs=rng.choice((0, 1, 1, 2)),
        exit_code=rng.choice((0, 0, 0, 0, 0, 0, 3, -9)),
        missing=rng.random() < 0.05,
        walltime_s=600 if rng.random() < 0.1 else None,
        attempts=rng.choice((0, 2, 2, 3)),
        lives=tuple(_life(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))),
        rules=tuple(_rule(rng) for _ in range(rng.choice((0, 0, 1, 2, 4)))),
        watching=rng.random() < 0.7,
        prompt=rng.random() < 0.5,
        rival=rng.random() < 0.7,
        lost=rng.random() < 0.05,
    )


def _life(rng: random.Random) -> Life:
    events: dict[int | str, str] = {}
    for event, chance in (("crash", 0.4), ("tear", 0.15), ("taken", 0.15), ("kill", 0.05), ("drain", 0.05)):
        if rng.random() < chance:
            events[_point(rng)] = event
    if rng.random() < 0.4:
        events[_point(rng)] = f"away {rng.choice((5, 60, 600, 3000, 7000, 9000, 3 * 3600, 5 * 3600))}"
    if rng.random() < 0.2:
        at = _point(rng)
        events[at] = "stop"
        if isinstance(at, int) and rng.random() < 0.5:
            events[at + rng.randrange(1, 8)] = "hurry"
    moves = {
        number: Move(rng.choice((0, 0, 20, 400, 4000)), rng.choice(("", "", *STAGE_KINDS)))
        for number in range(1, 9)
        if rng.random() < 0.12
    }
    return Life(events, moves, rng.choice((0, 10, 400, 2000, 8000, 4 * 3600)), rng.choice((0, 0, 60, 3000, 8000)))


def _final_lost(rng: random.Random, script: Script) -> Script:
    """The final does not arrive, and the pilot dies; the cause of a failure is known to it alone."""
    do = rng.choice((Fault.DROP_BEFORE, Fault.STATUS, Fault.NO_DATABASE))
    rules = tuple(Rule("/api/v1/pilot/update_job", do, count=5, state=state) for state in ("finished", "failed"))
    first = replace(_life(rng), events={f"{state}<{rng.choice('234')}": "crash" for state in ("finished", "failed")})
    if rng.random() < 0.5:
        first = replace(first, moves={rng.randrange(1, 5): Move(error=rng.choice((*STAGE_KINDS,)))})
    return replace(script, rules=rules, lives=(first, *script.lives))


def _late_crash(rng: random.Random, script: Script) -> Script:
    """The pilot dies between the payload's end and the final."""
    point = rng.choice(("exited<", "exited>", "storing>", "out<", "out|", "out>", "stored>", "stored>2", "final<"))
    first = replace(_life(rng), events={point: "crash"})
    return replace(script, exit_code=rng.choice((0, 0, 3)), lives=(first, *script.lives))


def _silence(rng: random.Random, script: Script) -> Script:
    """The server hears nothing for longer than its limit: nobody reaches it, or nobody lives."""
    away = f"away {rng.choice((6000, 9000, 3 * 3600, 5 * 3600))}"
    if rng.random() < 0.5:
        first = replace(_life(rng), events={"running>": away}, payload_s=rng.choice((7000, 8000, 9000, 4 * 3600)))
        return replace(script, lives=(first, *script.lives[1:]))
    first = replace(_life(rng), events={rng.choice(("started>", "exited>", "out|")): "crash"}, moves={})
    second = replace(_life(rng), after_s=rng.choice((7000, 8000, 9000)))
    return replace(script, lives=(first, second, *script.lives[2:]))


def _point(rng: random.Random) -> int | str:
    """Any point; as often one of those at which much is at stake."""
    if rng.random() < 0.5:
        return rng.randrange(1, 60)
    name = rng.choice(_NAMES)
    return name + rng.choice(("", "2", "3")) if name.startswith(("finished", "failed", "stored")) else name


_NAMES = (
    *("taken>", "started>", "exited<", "exited>", "storing>", "stored<", "stored>", "final<", "final>", "ended<"),
    *("finished<", "finished<", "finished>", "failed<", "failed<", "failed>", "out|", "get_job_status>"),
)


def _rule(rng: random.Random) -> Rule:
    match = rng.choice(("acquire_jobs", "get_job_status", "update_job", "update_job", "update_job"))
    state = rng.choice((None, "running", "finished", "failed")) if match == "update_job" else None
    nth = None if state in ("finished", "failed") else rng.randrange(1, 10)
    do, status, body = rng.choice(
        (
            (Fault.DROP_BEFORE, 500, ""),
            (Fault.DROP_AFTER, 500, ""),
            (Fault.DROP_AFTER, 500, ""),
            (Fault.STATUS, 500, "Internal error"),
            (Fault.STATUS, 502, "Bad gateway"),
            (Fault.STATUS, 429, "slow down"),
            (Fault.STATUS, 200, _TIMED_OUT),
            (Fault.STATUS, 200, REFUSED),
            (Fault.STATUS, 401, "no token"),
            (Fault.GARBAGE, 500, ""),
            (Fault.NO_DATABASE, 500, ""),
        )
    )
    return Rule(f"/api/v1/pilot/{match}", do, nth, rng.choice((1, 1, 2, 5)), state, status=status, body=body)
