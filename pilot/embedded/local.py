"""Our own calls under /local/: submit, look at jobs and requests, set faults."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from flask import Blueprint, Response, request

from pilot.embedded import definition, faults, view
from pilot.embedded.database import JobTable
from pilot.embedded.requestlog import RequestLog


def blueprint(table: JobTable, log: RequestLog, script: faults.Faults) -> Blueprint:
    """The routes under /local/."""
    routes = Blueprint("local", __name__)

    @routes.errorhandler(ValueError)
    def refuse(error: ValueError) -> Response:
        return _json({"error": " ".join(str(error).split())}, 400)

    @routes.post("/local/jobs")
    def submit() -> Response:
        queue, build = definition.parse(_sent())
        return _json({"id": table.submit(queue, build, time.time())})

    @routes.get("/local/jobs")
    def jobs() -> Response:
        return _json({"jobs": [view.line(record) for record in table.all()]})

    @routes.get("/local/jobs/<int:job_id>")
    def job(job_id: int) -> Response:
        record = table.load(job_id) if job_id < 2**63 else None
        if record is None:
            return _json({"error": f"no job {job_id}"}, 404)
        return _json(view.status(record, table.history(job_id)))

    @routes.get("/local/requests")
    def requests() -> Response:
        chosen = request.args.get("job")
        if chosen is not None and not re.fullmatch(r"[0-9]{1,18}", chosen):
            raise ValueError("job: must be a job's id")
        return _json({"requests": log.list(None if chosen is None else int(chosen))})

    @routes.route("/local/faults", methods=["GET", "POST", "DELETE"])
    def rules() -> Response:
        if request.method != "GET":
            script.set([] if request.method == "DELETE" else faults.parse(_sent()))
        return _json({"rules": script.list()})

    return routes


def _sent() -> Any:
    """The JSON that was sent. Only under its own content type: a foreign web page cannot send that."""
    if request.mimetype != "application/json":
        raise ValueError("Content-Type: must be application/json")
    try:
        return json.loads(request.get_data())
    except ValueError as error:
        raise ValueError(f"the body: not JSON: {error}") from None


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")
