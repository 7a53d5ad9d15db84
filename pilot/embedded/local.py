"""Our own calls under /local/: submit, look at jobs and requests, set faults."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request

from pilot.embedded import definition, documents, events, faults, view
from pilot.embedded.parts import Parts


def blueprint(parts: Parts) -> Blueprint:
    """The routes under /local/."""
    routes = Blueprint("local", __name__)
    table, log, script = parts.table, parts.log, parts.faults

    @routes.errorhandler(ValueError)
    def refuse(error: ValueError) -> Response:
        return _json({"error": " ".join(str(error).split())}, 400)

    @routes.post("/local/jobs")
    def submit() -> Response:
        return _json({"id": _submit(parts, definition.parse(documents.sent(request)))})

    @routes.get("/local/jobs")
    def jobs() -> Response:
        return _json({"jobs": [view.line(record) for record in table.all()]})

    @routes.get("/local/jobs/<int:job_id>")
    def job(job_id: int) -> Response:
        record = table.load(job_id) if job_id < 2**63 else None
        if record is None:
            return _json({"error": f"no job {job_id}"}, 404)
        told = view.status(record, table.history(job_id))
        ranges = {"events": parts.events.summary(record)} if record.is_event_service else {}
        return _json({**told, **ranges})

    @routes.get("/local/requests")
    def requests() -> Response:
        chosen = request.args.get("job")
        if chosen is not None and not re.fullmatch(r"[0-9]{1,18}", chosen):
            raise ValueError("job: must be a job's id")
        return _json({"requests": log.list(None if chosen is None else int(chosen))})

    @routes.route("/local/faults", methods=["GET", "POST", "DELETE"])
    def rules() -> Response:
        if request.method != "GET":
            script.set([] if request.method == "DELETE" else faults.parse(documents.sent(request)))
        return _json({"rules": script.list()})

    _settings(routes, parts)
    return routes


def _settings(routes: Blueprint, parts: Parts) -> None:
    """The routes by which queues, tokens and machines are set and seen."""

    @routes.post("/local/queues/<name>")
    def queue(name: str) -> Response:
        parts.queues.set(definition.queue_name(name), definition.fields_of_queue(documents.sent(request)))
        return _json({"queue": name, "set": parts.queues.get(name)})

    @routes.post("/local/tokens")
    def token() -> Response:
        return _json({"token": parts.issuer.tokens.mint(**_token_wishes(documents.sent(request)))})

    @routes.get("/local/nodes")
    def nodes() -> Response:
        return _json(parts.nodes.list())


def _submit(parts: Parts, given: definition.Submission) -> int:
    def fill(connection: sqlite3.Connection, made: Mapping[str, Any]) -> None:
        if given.events:
            events.fill(connection, made, given.events)

    return parts.table.submit(given.queue, given.build, time.time(), max_attempt=given.max_attempt, also=fill)


_TOKEN_KEYS: dict[str, tuple[type, ...]] = {
    "lifetime_s": (int, float),
    **dict.fromkeys(("vo", "role", "name"), (str,)),
    **dict.fromkeys(("groups", "scopes"), (list,)),
}


def _token_wishes(sent: Any) -> dict[str, Any]:
    """The arguments for a token; ValueError names what cannot be one."""
    for key, value in sent.items() if isinstance(sent, dict) else [("the body", sent)]:
        if key not in _TOKEN_KEYS or not isinstance(value, _TOKEN_KEYS[key]) or isinstance(value, bool):
            raise ValueError(f"{key}: unknown, or of the wrong type (known: {', '.join(_TOKEN_KEYS)})")
    return dict(sent)


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")
