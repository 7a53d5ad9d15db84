"""The Flask application: every request is recorded, may meet a fault, and goes to its part."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from flask import Flask, Response, g, request, send_file
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from pilot.embedded import api, documents, files, local, sitedata
from pilot.embedded.bodies import Bodies
from pilot.embedded.event_calls import EventCalls
from pilot.embedded.faults import GARBAGE, Kind, Rule
from pilot.embedded.hpo import idds, progress
from pilot.embedded.hpo import local as hpo_local
from pilot.embedded.job_calls import JobCalls
from pilot.embedded.parts import Parts
from pilot.embedded.wire import Request

_LARGEST_OWN = 2**26
_LARGEST_UPLOAD = 2**30
_PANDA = ("api", "server")
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


def application(parts: Parts) -> Flask:
    """The WSGI application over these parts."""
    app = Flask("pilot.embedded", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.converters["rest"] = _Rest
    bodies = Bodies()
    app.before_request(lambda: _before(parts, bodies))
    app.after_request(lambda response: _after(parts, response))
    app.teardown_request(_give_back)
    app.register_error_handler(HTTPException, _told)
    app.register_error_handler(documents.Unreadable, lambda error: _refused(error.status, str(error)))
    app.register_blueprint(local.blueprint(parts))
    app.register_blueprint(files.blueprint(parts.store))
    app.register_blueprint(hpo_local.blueprint(parts.studies, parts.events, parts.generator))
    app.register_blueprint(progress.blueprint(parts.studies))
    app.register_blueprint(idds.blueprint(parts.idds, parts.gate, _request))
    app.add_url_rule("/cache/schedconfig/<name>.all.json", "queue", lambda name: _queue(parts, name))
    app.add_url_rule("/cache/ddmendpoints.json", "storages", lambda: _json(sitedata.storage_data(request.host_url)))
    app.add_url_rule("/cache/<name>", _CACHED, lambda name: _cached(parts, name))
    server = _api(parts)
    for prefix in _PANDA:
        app.add_url_rule(f"/{prefix}/<rest:rest>", prefix, lambda rest: _panda(server), methods=_METHODS)  # noqa: ARG005
    return app


_CACHED = "cached"


def _api(parts: Parts) -> api.Api:
    job_calls = JobCalls(parts.table, parts.adder, parts.queues.testing, parts.nodes.any_gpus, parts.generator.generate)
    event_calls = EventCalls(parts.events, job_calls.find, parts.studies, broken=parts.broken)
    groups = (job_calls, event_calls, parts.nodes, parts.cache, parts.credentials, parts.idds)
    return api.Api(parts.gate, *(group.handlers() for group in groups), legacy=parts.legacy)


class _Rest(BaseConverter):
    """Whatever follows, empty parts included: the part that gets it decides what is wrong with it."""

    regex = ".*"
    part_isolating = False


def _panda(server: api.Api) -> Response:
    answer = server.answer(_request())
    return Response(answer.text.encode("utf-8", "replace"), answer.status, content_type="text/plain")


def _request() -> Request:
    multipart = request.mimetype == "multipart/form-data"
    rule: Rule | None = g.get("rule")
    return Request(
        method=request.method,
        path=request.path,
        query=request.query_string.decode("latin-1"),
        content_type=request.headers.get("Content-Type", ""),
        content_encoding=request.headers.get("Content-Encoding", ""),
        accept=request.headers.get("Accept", ""),
        body=b"" if multipart else request.get_data(),
        there=request.environ.get("pilot.there", lambda: True),
        form={**request.form, **request.files} if multipart else {},
        length=request.content_length or 0,
        authorization=request.headers.get("Authorization", ""),
        origin=request.headers.get("Origin"),
        client=request.environ.get("pilot.client", ""),
        outage=rule is not None and rule.do is Kind.NO_DATABASE,
        base=request.host_url.rstrip("/"),
    )


def _queue(parts: Parts, name: str) -> Response:
    told = parts.queues.get(name)
    if name != sitedata.QUEUE and told is None and name not in parts.table.queues():
        return _json({"error": f"no queue {name}"}, 404)
    return _json({**sitedata.queue_data(name, parts.timefloor_min), **(told or {})})


def _cached(parts: Parts, name: str) -> Response:
    path = parts.cache.path(name)
    if path is None:
        return Response("not found\n", 404, content_type="text/plain")
    return send_file(path.absolute(), mimetype="application/octet-stream")


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")


def _before(parts: Parts, bodies: Bodies) -> Response | None:
    """Record the request's arrival, then let a fault happen to it."""
    g.seq, g.rule, g.held = None, None, ExitStack()
    if request.headers.get("Transfer-Encoding"):
        return _refused(411, "Content-Length is needed")
    if (request.content_length or 0) > _largest():
        return _refused(413, "the body is too large")
    text = ""
    if not (_is_file() or _is_upload()):
        g.held.enter_context(bodies.taken(request, () if _is_own() else ("gzip",)))
        text = _body_text()
    jobs, state = _about(text)
    g.seq = parts.log.arrived(request.method, _full_path(), text, jobs)
    if request.path == "/local/faults":
        return None
    g.rule = parts.faults.strike(request.path, state)
    return _struck(parts, g.rule) if g.rule else None


def _give_back(_error: BaseException | None) -> None:
    """Let another large body have its turn."""
    held: ExitStack | None = g.pop("held", None)
    if held is not None:
        held.close()


def _told(error: HTTPException) -> Response | HTTPException:
    """A refusal in one line, as JSON where our own commands read it."""
    status = error.code or 500
    if status < _REFUSAL:
        return error
    return _refused(status, " ".join(f"{error.name}: {error.description}".split()))


def _refused(status: int, text: str) -> Response:
    if _is_own():
        return _json({"error": text}, status)
    return Response(f"ERROR : {text}\n", status, content_type="text/plain")


_REFUSAL = 400


def _struck(parts: Parts, rule: Rule) -> Response | None:
    """The fault's own answer, or None if the request is to be worked on."""
    if rule.do is Kind.DELAY:
        parts.stopping.wait(rule.seconds)
        return _dropped() if parts.stopping.is_set() else None
    if rule.do is Kind.DROP_BEFORE:
        return _dropped()
    if rule.do is Kind.STATUS:
        return Response(rule.body, rule.status, content_type="text/plain")
    if rule.do is Kind.GARBAGE:
        return Response(rule.body or GARBAGE, 200, content_type="text/html")
    return None


def _dropped() -> Response:
    """The connection will be closed instead of this answer."""
    request.environ["pilot.drop"] = True
    return Response(status=500)


def _after(parts: Parts, response: Response) -> Response:
    """Record the answer, after what a fault does to it; it is the last thing before the answer leaves."""
    rule: Rule | None = g.get("rule")
    if rule and rule.do is Kind.DROP_AFTER:
        request.environ["pilot.drop"] = True
    if rule and rule.do is Kind.LATE:
        _record(parts, response)
        parts.stopping.wait(rule.seconds)
    _record(parts, response)
    if request.endpoint in _PANDA and response.content_type == "text/plain":
        _chunk(response)
    return response


def _chunk(response: Response) -> None:
    """Take the Content-Length off, so that the answer travels in chunks as those of the live server do."""
    response.response = iter([response.get_data()])
    response.headers.pop("Content-Length", None)


def _record(parts: Parts, response: Response) -> None:
    if g.get("seq") is None:
        return
    dropped = request.environ.get("pilot.drop")
    text = _answer_text(response)
    rule: Rule | None = g.rule
    jobs = _given_jobs(text) if request.path.endswith(("/acquire_jobs", "/local/jobs")) else []
    parts.log.answered(g.seq, None if dropped else response.status_code, text, jobs, rule.do if rule else None)


def _answer_text(response: Response) -> str:
    """The answer as text: not that of a file, and not the list of requests, which would hold itself."""
    if _is_file() or request.path == "/local/requests":
        return ""
    return response.get_data(as_text=True)


def _is_file() -> bool:
    return request.path.startswith("/store/") or request.endpoint == _CACHED


def _is_own() -> bool:
    """Whether the local token was shown."""
    return request.path.startswith("/local/")


def _is_upload() -> bool:
    """Whether it brings a file that goes to the disk as it comes."""
    paths = ("/api/v1/file_server/upload_", "/server/panda/put_checkpoint")
    return request.path.startswith(paths) and request.mimetype == "multipart/form-data"


def _largest() -> float:
    """How long a body may be; files of the store may have any length."""
    if _is_file():
        return float("inf")
    if _is_upload():
        return _LARGEST_UPLOAD
    return _LARGEST_OWN if _is_own() else documents.LARGEST


def _full_path() -> str:
    query = request.query_string.decode("latin-1")
    return f"{request.path}?{query}" if query else request.path


def _body_text() -> str:
    """The body as text, without its compression if it can be taken off."""
    try:
        return api.plain_body(_request()).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error):
        return request.get_data().decode("utf-8", "replace")


def _about(text: str) -> tuple[list[int], str | None]:
    """The jobs that a request is about, and the state that it tells. Raises Unreadable."""
    try:
        sent = documents.loads(text, trusted=_is_own()) if text else None
    except ValueError:
        sent = None
    state = sent.get("job_status") if isinstance(sent, dict) else None
    return list(_named_jobs(sent)), state if isinstance(state, str) else None


def _named_jobs(sent: Any) -> Iterator[int]:
    """The jobs that a request names in its path, its query or its body."""
    yield from map(int, re.findall(r"^/(?:local/jobs|store/local)/(\d{1,18})(?:/|$)", request.path))
    yield from (int(one) for one in request.args.getlist("job_ids") if re.fullmatch(r"\d{1,18}", one))
    if isinstance(sent, dict):
        told, many = sent.get("job_ids"), sent.get("job_list")
        several = told if isinstance(told, list) else [sent.get("job_id")]
        several += [one.get("job_id") for one in many if isinstance(one, dict)] if isinstance(many, list) else []
        yield from (one for one in several if isinstance(one, int) and not isinstance(one, bool))


def _given_jobs(text: str) -> list[int]:
    """The jobs that an answer gives out."""
    try:
        answer = json.loads(text)
    except ValueError:
        return []
    if not isinstance(answer, dict):
        return []
    if isinstance(answer.get("id"), int):
        return [answer["id"]]
    data = answer.get("data")
    return [one["PandaID"] for one in data.get("jobs", [])] if isinstance(data, dict) else []
