"""What has come out of a study: `results.json` and `leaderboard.json`, made from what the server and the log tell."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pilot.agent.local.timeline import Stay, Timeline
from pilot.values.decoding import DOCUMENT, decode_json
from pilot.values.errors import Garbled
from pilot.values.hpo import PENALTY
from pilot.values.study import Study

_BEST = 10


def results(status: Mapping[str, Any], study: Study, timeline: Timeline, state: str | None = None) -> dict[str, Any]:
    """The content of results.json: a study's status, with the slots and times of its evaluations.

    ``state`` overrides the server's, for a study that was given up or stopped.
    """
    points = [one | _stay(timeline.last(one["id"])) for one in told_points(status["points"])]
    return {
        "name": status["name"],
        "task": status["task"],
        "state": state or status["state"],
        **summary(points),
        "max_points": status["max_points"],
        "seconds": round(timeline.seconds, 3),
        "points": points,
        "evaluations": [
            {
                "point": one.point,
                "slot": one.slot,
                "device": one.device,
                "attempt": one.attempt,
                "began": round(one.began, 3),
                "ended": round(one.ended or one.began, 3),
                "verdict": one.verdict,
            }
            for one in timeline.stays()
        ],
        "lives": [round(one, 3) for one in timeline.lives],
        "study": study.as_json(),
    }


def told_points(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points as the server tells them; one whose loss is the penalty has failed, whoever has told it."""
    keys = ("id", "state", "loss", "parameters", "progress", "began", "ended")
    told = []
    for one in points:
        state = "failed" if one["state"] == "penalised" or one["loss"] == PENALTY else one["state"]
        told.append({**{key: one[key] for key in keys}, "state": "running" if state == "leased" else state})
    return told


def _stay(stay: Stay | None) -> dict[str, Any]:
    """Where and for how long a point was evaluated, the last time."""
    if stay is None:
        return {}
    seconds = None if stay.ended is None else round(stay.ended - stay.began, 3)
    return {"slot": stay.slot, "seconds": seconds, "attempt": stay.attempt}


def summary(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many have a loss of their own, or failed, or were pruned, and the best: None while there is none."""
    counts = Counter(one["state"] for one in points)
    ranked = ranking(points)
    return {
        "best": {key: ranked[0][key] for key in ("id", "loss", "parameters")} if ranked else None,
        "evaluated": counts["evaluated"] + counts["pruned"],
        "failed": counts["failed"],
        "pruned": counts["pruned"],
    }


def ranking(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Points with a loss of their own, the best first."""
    real = [one for one in points if one["state"] in ("evaluated", "pruned") and is_number(one["loss"])]
    return sorted(real, key=lambda one: (one["loss"], int(one["id"])))


def is_number(value: object) -> bool:
    """Whether it can be compared and drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def leaderboard(found: Mapping[str, Any], timeline: Timeline, now: float) -> dict[str, Any]:
    """The content of leaderboard.json (hpo-contract.md 10.8)."""
    counts = Counter(one["state"] for one in found["points"])
    return {
        "task_id": str(found["task"]),
        "updated": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "direction": "min",
        "counts": {
            "known": len(found["points"]),
            "evaluated": found["evaluated"] + found["failed"],
            "running_here": len(timeline.running),
            "waiting": counts["waiting"],
            "penalised": found["failed"],
        },
        "best": [
            {"id": one["id"], "loss": one["loss"], "parameters": one["parameters"], "here": "slot" in one}
            for one in ranking(found["points"])[:_BEST]
        ],
        "running": [
            {
                "id": one.point,
                "slot": one.slot,
                "step": one.step,
                "last_loss": one.loss,
                "elapsed": round(max(0.0, now - one.clock), 1),
            }
            for one in timeline.running
        ],
    }


def write(file: Path, content: str) -> None:
    """Put a file in place whole, or leave the old one."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(file)


def write_json(file: Path, value: object) -> None:
    """The same for an object."""
    write(file, json.dumps(value, indent=1) + "\n")


def read_results(file: Path) -> dict[str, Any] | None:
    """What was written, None where there is nothing that can be read."""
    try:
        found = decode_json(file.read_bytes(), DOCUMENT)
    except (OSError, Garbled):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("points"), list) else None
