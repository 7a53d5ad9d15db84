"""Our own calls about studies, under /local/studies."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from flask import Blueprint, Response, request

from pilot.embedded import documents
from pilot.embedded.events import EventTable
from pilot.embedded.hpo.jobs import Generator
from pilot.embedded.hpo.studies import Studies
from pilot.embedded.hpo.tables import Kept, Row
from pilot.values.names import Checksum, Lfn, Name, Url
from pilot.values.study import parse_study

_STATES = ("evaluated", "penalised", "pruned")


def blueprint(studies: Studies, events: EventTable, generator: Generator) -> Blueprint:
    """The routes."""
    routes = Blueprint("studies", __name__)

    @routes.errorhandler(ValueError)
    def refuse(error: ValueError) -> Response:
        return _json({"error": " ".join(str(error).split())}, 400)

    @routes.post("/local/studies")
    def submit() -> Response:
        sent = _sent()
        inputs = _inputs(sent.get("inputs") or [])
        archive = str(Lfn(_text("archive", sent["archive"]))) if sent.get("archive") else ""
        queue = str(Name(_text("queue", sent.get("queue") or "LOCAL")))
        return _json({"task": studies.submit(parse_study(sent.get("study")), queue, archive, inputs)})

    @routes.get("/local/studies")
    def all_of_them() -> Response:
        found = [
            {"task": one.task, "name": one.study.study, "state": _state(one, studies.points(one.task), generator)[0]}
            for one in studies.all()
        ]
        return _json({"studies": found})

    @routes.get("/local/studies/<int:task>")
    def one(task: int) -> Response:
        kept = studies.find(task) if task < 2**63 else None
        if kept is None:
            return _json({"error": f"no study with task {task}"}, 404)
        return _json(status(kept, studies, events, generator))

    return routes


def status(kept: Kept, studies: Studies, events: EventTable, generator: Generator) -> dict[str, Any]:
    """A study as a person wants to see it."""
    rows = studies.points(kept.task)
    state, why = _state(kept, rows, generator)
    holders = events.holders(kept.task)
    losses, steps = studies.losses(kept.task), studies.progress(kept.task)
    points = [_point(row, holders.get(row.id), losses.get(row.id, []), steps.get(row.id, [])) for row in rows]
    counts = Counter(point["state"] for point in points)
    best = [
        row for row in rows if row.state in ("evaluated", "pruned") and row.loss is not None and math.isfinite(row.loss)
    ]
    first = min(best, key=lambda row: row.loss or 0.0, default=None)
    return {
        "task": kept.task,
        "name": kept.study.study,
        "state": state,
        "why": why,
        "max_points": kept.most_points,
        "generation": kept.generation,
        "points_per_iteration": kept.study.points_per_iteration,
        "counts": {
            "known": len(rows),
            "evaluated": sum(counts[one] for one in _STATES),
            "running": counts["leased"],
            "waiting": counts["waiting"],
            "penalised": counts["penalised"],
            "pruned": counts["pruned"],
        },
        "best": {"id": str(first.id), "loss": first.loss, "parameters": first.parameters} if first else None,
        "points": points,
        "jobs": [job.id for job in generator.jobs(kept.task)],
    }


def _state(kept: Kept, rows: list[Row], generator: Generator) -> tuple[str, str]:
    """The state of a study, and why it has failed."""
    if len(rows) < kept.most_points or any(row.loss is None for row in rows):
        why = generator.given_up(kept)
        return ("failed", why) if why else ("running", "")
    if all(row.state == "penalised" for row in rows):
        return "failed", "no point could be evaluated"
    return "finished", ""


def _point(row: Row, holder: Any, losses: list[Any], steps: list[Any]) -> dict[str, Any]:
    attempts, job, taken = holder or (0, None, False)
    state = row.state
    if row.loss is None:
        state = "leased" if taken else "waiting"
    return {
        "id": str(row.id),
        "parameters": row.parameters,
        "loss": _number(row.loss),
        "state": state,
        "attempts_left": attempts,
        "job": job,
        "progress": steps,
        "losses": [{**one, "loss": _number(one["loss"])} for one in losses],
        "began": row.began,
        "ended": row.ended,
    }


def _number(loss: float | None) -> float | str | None:
    """As JSON has it; what is no number as a text."""
    return loss if loss is None or math.isfinite(loss) else str(loss)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be a text")  # noqa: TRY004 - one kind of error for bad input
    return value


def _inputs(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise ValueError("inputs: must be a list")  # noqa: TRY004 - as above
    return [_input(one) for one in values]


def _input(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("inputs: must be objects")  # noqa: TRY004 - one kind of error for bad input
    checked = {"name": str(Lfn(str(value.get("name")))), "url": str(Url(str(value.get("url"))))}
    if value.get("checksum"):
        Checksum.parse(str(value["checksum"]))
    return {**checked, "size": value.get("size"), "checksum": value.get("checksum")}


def _sent() -> dict[str, Any]:
    value = documents.sent(request)
    if not isinstance(value, dict):
        raise ValueError("the body: must be an object")  # noqa: TRY004 - as above
    return value


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")
