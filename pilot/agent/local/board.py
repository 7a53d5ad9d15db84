"""A study as lines of text: the leaderboard on a terminal, its end, and the answer of `pilot status --study`.

No line is wider than asked for, and what does not fit goes on in the next: nothing is cut off.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pilot.agent.local.results import ranking, summary, told_points
from pilot.agent.local.timeline import Stay
from pilot.values.printable import line, lines

WIDTH = 80
_ROWS = 10
_HEAD = "point        loss  seconds  "


def live_lines(found: Mapping[str, Any], running: Sequence[Stay], now: float, width: int, height: int) -> list[str]:
    """The leaderboard in a window: as many rows as there is room for, the best first. ``now`` is Unix seconds."""
    top = head_lines(found, len(running), width)
    for rows in range(min(_ROWS, len(found["points"])), -1, -1):
        for slots in (len(running), 4, 1):
            told = top + _ranked(found, rows, width) + _running(running, slots, now, width)
            if len(told) <= height:
                return told
    return top[:height]


def head_lines(found: Mapping[str, Any], running: int, width: int) -> list[str]:
    """Counts, progress, and the best so far."""
    done, most = found["evaluated"] + found["failed"], found["max_points"]
    said = [f"{done} of {most} points evaluated", *_counts(found, running)]
    share = done / most if most else 1.0
    room = min(60, width - 9)
    full = round(room * min(1.0, share))
    bar = f"[{'#' * full}{'.' * (room - full)}]  {100 * share:3.0f} %"
    best = found["best"]
    told = (
        f"best {number(best['loss'])}, point {best['id']}: {parameters(best['parameters'])}" if best else "no best yet"
    )
    return [*_wrapped(f"{found['name']}: {', '.join(said)}", width), bar, *_wrapped(told, width, 5)]


def _counts(found: Mapping[str, Any], running: int) -> list[str]:
    counts = Counter(one["state"] for one in found["points"])
    several = {
        "running": running or counts["running"],
        "waiting": counts["waiting"] + counts["running"] - running if running else counts["waiting"],
        "pruned": found["pruned"],
        "failed": found["failed"],
    }
    return [f"{count} {what}" for what, count in several.items() if count > 0]


def _ranked(found: Mapping[str, Any], rows: int, width: int) -> list[str]:
    points = ranking(found["points"])[:rows]
    return ["", *table(points, width)] if points else []


def table(points: Sequence[Mapping[str, Any]], width: int = WIDTH) -> list[str]:
    """Points, one or more lines each."""
    lines = [_HEAD + "parameters"]
    for one in points:
        shown = number(one["loss"]) if one["loss"] is not None else one["state"]
        seconds = "" if one.get("seconds") is None else f"{one['seconds']:.1f}"
        start = f"{one['id']:>5}  {shown:>10}  {seconds:>7}  "
        note = "" if one["state"] in ("evaluated", shown) else f"  ({one['state']})"
        lines += _wrapped(start + parameters(one["parameters"]) + note, width, len(start))
    return lines


def _running(running: Sequence[Stay], most: int, now: float, width: int) -> list[str]:
    if not running:
        return []
    lines = ["", " slot  running        step   last loss  seconds"]
    for one in sorted(running, key=lambda one: one.slot)[:most]:
        step = "" if one.step is None else str(one.step)
        loss = "" if one.loss is None else number(one.loss)
        lines.append(f"{one.slot:>5}  point {one.point:<6}  {step:>5}  {loss:>10}  {max(0.0, now - one.clock):>7.1f}")
    if len(running) > most:
        lines.append(f"       and {len(running) - most} more")
    return [line[:width] for line in lines]


def evaluated_line(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """A point that has just got its loss, as one line of a log."""
    best = found["best"]
    ahead = "" if best is None else "  best" if best["id"] == one["id"] else f"  (best {number(best['loss'])})"
    state = "" if one["state"] == "evaluated" else f"  {one['state']}"
    done = found["evaluated"] + found["failed"]
    start = f"{done:>4}/{found['max_points']}  point {one['id']:<4}  loss {number(one['loss'])}{state}{ahead}"
    return f"{start}  {parameters(one['parameters'])}"


def study_lines(status: Mapping[str, Any], width: int = WIDTH) -> list[str]:
    """A study as the server tells it: state, counts, the best points."""
    status = lines(status)
    points = told_points(status["points"])
    found = {**status, **summary(points), "points": points}
    why = f": {status['why']}" if status["why"] else ""
    rounds = f", generation {status['generation']}" if status["points_per_iteration"] else ""
    jobs = f"{len(status['jobs'])} job{'' if len(status['jobs']) == 1 else 's'}"
    state = f"task {status['task']}  {status['state']}{why}{rounds}, {jobs}"
    return [*_wrapped(state, width), *head_lines(found, 0, width), *_ranked(found, _ROWS, width)]


def end_lines(found: Mapping[str, Any], width: int = WIDTH) -> list[str]:
    """The best point in full, and the table of the best ones."""
    best = found["best"]
    lines = []
    if best is not None:
        exact = best["parameters"][1] if isinstance(best["parameters"], list) else best["parameters"]
        lines = _wrapped(f"best loss {best['loss']!r}, point {best['id']}", width)
        lines += [line for key, value in exact.items() for line in _wrapped(f"  {key} = {_exact(value)}", width, 4)]
        lines.append("")
    ranked = ranking(found["points"])
    lines += table(ranked[:_ROWS], width) if ranked else ["no point was evaluated"]
    rest = len(ranked) - _ROWS
    return [*lines, f"and {rest} more"] if rest > 0 else lines


def number(value: Any) -> str:
    """A loss or parameter, in at most ten characters where it is a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) and abs(value) < 10**9:
        return str(value)
    return f"{value:.4g}" if not math.isfinite(value) or abs(value) < 1e-4 or abs(value) >= 1e6 else f"{value:.5g}"


def parameters(value: Any) -> str:
    """A point, compact: ``lr=0.0031  layers=2``; of a segmented study with the model before it."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
        return f"model {value[0]}  {parameters(value[1])}"
    if not isinstance(value, dict):
        return _exact(value)
    return "  ".join(f"{line(str(key))}={_short(one)}" for key, one in value.items())


def _short(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _exact(value)


def _exact(value: Any) -> str:
    return line(value) if isinstance(value, str) else line(json.dumps(value))


def _wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """Lines of ``width``, those behind the first with an indent."""
    return textwrap.wrap(text, width, subsequent_indent=" " * min(indent, width // 2), break_on_hyphens=False) or [""]
