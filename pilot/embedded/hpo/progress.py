"""Where pilots report intermediate losses: under a key of its own for each study, which its jobs bring with them."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, request

from pilot.embedded import documents
from pilot.embedded.hpo.studies import Studies
from pilot.values.hpo import finite

_MOST_STEPS = 10_000


def blueprint(studies: Studies) -> Blueprint:
    """The route."""
    routes = Blueprint("progress", __name__)

    @routes.post("/studies/<key>/points/<int:point>/progress")
    def progress(key: str, point: int) -> Response:
        task = studies.task_of_key(key)
        return _told(studies, task, point) if task is not None else _json({"error": "no such study"}, 404)

    @routes.post("/local/studies/<int:task>/points/<int:point>/progress")
    def own(task: int, point: int) -> Response:
        return _told(studies, task, point)

    return routes


def _told(studies: Studies, task: int, point: int) -> Response:
    try:
        steps = _steps()
    except ValueError as error:
        return _json({"error": " ".join(str(error).split())}, 400)
    told = studies.report(task, point, steps) if max(task, point) < 2**63 else None
    if told is None:
        return _json({"error": f"no point {point} of a study with task {task}"}, 404)
    return _json({"prune": told})


def _steps() -> dict[int, float]:
    """The steps that were sent. Only under JSON's content type: a foreign web page cannot send that."""
    sent = documents.sent(request)
    steps = sent.get("steps") if isinstance(sent, dict) else None
    if not isinstance(steps, list) or len(steps) > _MOST_STEPS:
        raise ValueError("steps: must be a list")
    return dict(map(_step, steps))


def _step(value: Any) -> tuple[int, float]:
    step, loss = (value.get("step"), finite(value.get("loss"))) if isinstance(value, dict) else (None, None)
    if isinstance(step, bool) or not isinstance(step, int) or loss is None or not 0 <= step < 2**31:
        raise ValueError("steps: each needs a step and a finite loss")
    return step, loss


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")
