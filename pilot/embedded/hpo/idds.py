"""iDDS's routes for hyper-parameters, and the server's relay to them (hpo-contract.md 2; recorded with iDDS 2.6.21).

``broken`` makes them fail where that version does; else they do what its documentation promises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, request

from pilot.embedded import documents
from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.hpo.studies import Studies
from pilot.embedded.hpo.tables import Row
from pilot.embedded.identity import BadToken, Gate
from pilot.embedded.wire import Envelope, Request, envelope

_STATUS = {"New": None, "0": None, "Available": 1, "2": 1}
_DIGITS = 18
_OWN = "IDDSException"
_NO_ROUTE = (
    "404 Not Found: The requested URL was not found on the server. If you entered the URL manually please check"
    " your spelling and try again."
)
_NO_METHOD = "405 Method Not Allowed: The method is not allowed for the requested URL."
_STORED = {"message": "update successfully", "status": 0}


class IddsError(Exception):
    """An answer without a body: status, class and message of what went wrong."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def answer(self) -> Response:
        """As iDDS sends it."""
        headers = {"ExceptionClass": self.kind, "ExceptionMessage": str(self)}
        kind = "text/html; charset=utf-8" if self.status in (404, 405) and self.kind == _OWN else "application/json"
        return Response(b"", self.status, headers, content_type=kind)


class Idds:
    """The points of all studies under iDDS's names."""

    def __init__(self, studies: Studies, *, broken: bool) -> None:
        self._studies = studies
        self._broken = broken

    def get(
        self, workload: Any, req: Any, point: Any = None, status: Any = None, limit: Any = None
    ) -> list[dict[str, Any]]:
        """The points that fit. Raises IddsError."""
        tasks = self._studies.tasks_of(self._number("workload_id", workload), self._number("request_id", req))
        rows = [row for task in tasks for row in self._studies.points(task)]
        if status is not None:
            if self._broken:
                raise _core("(builtins.AttributeError) 'str' object has no attribute 'value'")
            if str(status) not in _STATUS:
                raise IddsError(400, "BadRequest", json.dumps({"msg": f"status {status} is not known"}))
            rows = [row for row in rows if (row.loss is not None) == bool(_STATUS[str(status)])]
        if point is not None:
            rows = [row for row in rows if str(row.id) == str(point)]
        if limit is not None:
            if self._broken and rows:
                raise _core("'>' not supported between instances of 'int' and 'str'")
            rows = rows[: self._number("limit", limit)]
        return [_shown(row) for row in rows]

    def put(self, workload: Any, req: Any, point: Any, loss: Any) -> dict[str, Any]:
        """Register a loss. Raises IddsError."""
        if workload is None and req is None:
            raise _core("One of workload_id and request_id should not be None or empty")
        tasks = self._studies.tasks_of(self._number("workload_id", workload), self._number("request_id", req))
        try:
            value = float(loss)
        except (TypeError, ValueError):
            raise _core(f"could not convert string to float: {str(loss)!r}") from None
        if not self._broken and not math.isfinite(value):
            raise IddsError(400, "BadRequest", json.dumps({"msg": f"the loss {loss} is not finite"}))
        known = str(point).isascii() and str(point).isdigit() and len(str(point)) <= _DIGITS
        number = int(point) if known else -1
        if not any(self._studies.tell(task, number, value) for task in tasks):
            if self._broken:
                raise _core("list index out of range")
            raise IddsError(404, "NoObject", json.dumps({"msg": f"there is no point {point}"}))
        return _STORED

    def handlers(self) -> dict[str, Handler]:
        """The server's relay."""
        return {"idds/relay_idds_command": self._relay}

    def _relay(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        command = asked["command_name"]
        calls: dict[object, Callable[..., Any]] = {
            "get_hyperparameters": self._get_hyperparameters,
            "update_hyperparameter": self._update_hyperparameter,
        }
        if command not in calls:
            return envelope(success=False, message=f"{command} is not a command of iDDS Client")
        try:
            data: Any = calls[command](
                *documents.loads(asked["args"] or "[]"), **documents.loads(asked["kwargs"] or "{}")
            )
        except (ValueError, TypeError, KeyError) as error:
            return envelope(success=False, message=f"failed with {type(error).__name__} {error}")
        except IddsError as error:
            return envelope(success=False, message=f"failed with {error.kind} {error}")
        return envelope(success=True, data=_wrapped(data) if asked["json_outputs"] else data)

    def _get_hyperparameters(self, workload_id: Any, request_id: Any, **more: Any) -> Any:
        """Named as in iDDS's client."""
        return self.get(workload_id, request_id, *(more.get(name) for name in ("id", "status", "limit")))

    def _update_hyperparameter(self, workload_id: Any, request_id: Any, id: Any, loss: Any) -> Any:  # noqa: A002
        return self.put(workload_id, request_id, id, loss)

    def _number(self, name: str, value: Any) -> int | None:
        if value is None:
            return None
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
            kind = "DatabaseException" if self._broken else "BadRequest"
            said = json.dumps({"msg": f"Database exception.: {{}}\nDetails: {name} {text[:40]!r} is no number"})
            raise IddsError(500 if self._broken else 400, kind, said)
        return int(text)


def blueprint(idds: Idds, gate: Gate, made: Any) -> Blueprint:
    """The routes below /idds; ``made`` makes a `Request` of what is being answered."""
    routes = Blueprint("idds", __name__)

    @routes.errorhandler(IddsError)
    def refuse(error: IddsError) -> Response:
        return error.answer()

    @routes.before_request
    def known() -> Response | None:
        return _stranger(gate, made())

    @routes.get("/idds/ping")
    def ping() -> Response:
        return _json({"Status": "OK"})

    @routes.get("/idds/hpo/<workload>/<req>/<point>/<status>/<limit>")
    def get(workload: str, req: str, point: str, status: str, limit: str) -> Response:
        return _json(_maybe_wrapped(idds.get(*(_value(one) for one in (workload, req, point, status, limit)))))

    @routes.put("/idds/hpo/<workload>/<req>/<point>/<loss>")
    def put(workload: str, req: str, point: str, loss: str) -> Response:
        return _json(_maybe_wrapped(idds.put(*(_value(one) for one in (workload, req, point, loss)))))

    @routes.route("/idds/<path:rest>", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    def other(rest: str) -> Response:
        parts = rest.split("/")
        there = parts[0] == "hpo" and len(parts) in (5, 6)
        status, words = (405, _NO_METHOD) if there else (404, _NO_ROUTE)
        raise IddsError(status, _OWN, f"The requested REST API is not defined: {words}")

    return routes


def _stranger(gate: Gate, asked: Request) -> Response | None:
    """An answer to a caller whom nobody knows: by certificate, or by a token in iDDS's own headers."""
    if gate.decoder is None:
        return None
    message = "User DN cannot be found."
    if request.headers.get("X-IDDS-Auth-Type") == "oidc":
        token = request.headers.get("X-IDDS-Auth-Token", "")
        try:
            gate.decoder.decode(token)
            if request.headers.get("X-IDDS-Auth-VO") in gate.vos:
                return None
            message = "Failed to verify oidc token: 'bool' object is not subscriptable"
        except BadToken as error:
            message = f"Failed to verify oidc token: {error}"
    elif asked.client:
        return None
    return IddsError(401, _OWN, message).answer()


def _core(message: str) -> IddsError:
    return IddsError(500, "CoreException", json.dumps({"msg": message}))


def _value(text: str) -> str | None:
    return None if text == "null" else text


def _shown(row: Row) -> dict[str, Any]:
    return {"id": str(row.id), "loss": row.loss, "parameters": row.parameters}


def _maybe_wrapped(value: Any) -> Any:
    return _wrapped(value) if request.args.get("json_outputs") == "true" else value


def _wrapped(value: Any) -> dict[str, Any]:
    return {"data": value, "error": None, "status": 0}


def _json(value: Any) -> Response:
    """Pretty, with sorted keys; NaN as Python writes it."""
    return Response(json.dumps(value, indent=4, sort_keys=True), 200, content_type="application/json")
