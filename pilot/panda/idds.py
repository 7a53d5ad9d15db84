"""The points of a study, as iDDS keeps them (hpo-contract.md 2, recorded with iDDS 2.6.21).

Two routes with everything in the path. Their filters for status and number do not work there, so none is ever sent.
A 500 may mean anything: what it says in its header decides. A loss that was told can be overwritten by anybody.
Somebody may have told one that is no finite number: it is NaN here, so that the point has its loss.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

from pilot.net.credentials import Credentials
from pilot.net.transport import Answer, Limits, Transport
from pilot.panda.generations import Generations
from pilot.panda.wire import Wire, refusal
from pilot.values.decoding import LOOSE, decode_json
from pilot.values.errors import CredentialError, Garbled, ServerGarbled, ServerRefused, ServerUnavailable
from pilot.values.hpo import Point, finite

_CALL = Limits(connect_s=10, idle_s=60, total_s=120, most_bytes=8 << 20)
_RELAY, _OLD_RELAY = "/api/v1/idds/relay_idds_command", "/server/panda/relay_idds_command"

_OK, _UNAUTHORIZED, _FORBIDDEN, _SERVER_FAULT, _SLOW_DOWN = 200, 401, 403, 500, (408, 429)
_PERMANENT = (
    "list index out of range",  # an unknown id
    "could not convert",
    "should not be None",
    "has no attribute 'value'",
    "not supported between instances",
    "invalid input syntax",
)  # these come from the request itself
_NO_COMMAND = ("is not a command", "rgument error", "Type error", "is forbidden")


class Idds(Protocol):
    """The points of tasks. To be used by one thread."""

    def point(self, task: int, id: str) -> Point | None:  # noqa: A002 - the contract's name
        """One point; None if there is none of this id.

        Raises ServerUnavailable and ServerGarbled where it is worth another try, ServerRefused, CredentialError.
        """

    def points(self, task: int) -> list[Point]:
        """All points of a task, as they were made; none of an unknown task. Raises as `point`."""

    def tell(self, task: int, id: str, loss: float) -> None:  # noqa: A002 - the contract's name
        """Register a finite loss. It takes the place of one that was told before. Raises as `point`."""

    def interrupt(self) -> None:
        """End the call in flight; from any thread."""

    def close(self) -> None:
        """Close the connection."""


class DirectIdds:
    """IDDS itself, with the pilot's certificate, or its token in headers of iDDS's own (hpo-contract.md 2.3)."""

    def __init__(self, transport: Transport, base: str, credentials: Credentials | None, version: str) -> None:
        """Speak through ``transport``, whose base is ``base``."""
        self._transport = transport
        self._base = base.rstrip("/")
        self._credentials = credentials
        self._seen = credentials.stamp() if credentials is not None else ()
        self._headers = {"User-Agent": f"panda-pod-pilot/{version}", "Accept": "application/json"}

    def point(self, task: int, id: str) -> Point | None:  # noqa: A002 - the contract's name
        """One point; None if there is none of this id."""
        found = self._get(f"/idds/hpo/{task}/null/{checked(id)}/null/null")
        return next((one for one in found if one.id == id), None)

    def points(self, task: int) -> list[Point]:
        """All points of a task."""
        return self._get(f"/idds/hpo/{task}/null/null/null/null")

    def tell(self, task: int, id: str, loss: float) -> None:  # noqa: A002 - the contract's name
        """Register a loss."""
        path = f"/idds/hpo/{task}/null/{checked(id)}/{_finite(loss)!r}"
        _accepted(path, _json(path, self._call("PUT", path)))

    def interrupt(self) -> None:
        """End the call in flight."""
        self._transport.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _get(self, path: str) -> list[Point]:
        return _points(path, _json(path, self._call("GET", path)))

    def _call(self, method: str, path: str) -> Answer:
        """One request; once more where iDDS refuses a token that the file has replaced meanwhile."""
        sent = self._login()
        answer = self._send(method, path, sent)
        if answer.status == _UNAUTHORIZED and (again := self._login()) != sent:
            answer = self._send(method, path, again)
        _check(f"{method} {path}", answer)
        return answer

    def _send(self, method: str, path: str, login: Mapping[str, str]) -> Answer:
        return self._transport.call(method, self._base + path, headers={**self._headers, **login}, limits=_CALL)

    def _login(self) -> dict[str, str]:
        """Headers of a token; none for a certificate. Connections are made anew when their files have changed."""
        if self._credentials is None:
            return {}
        if (stamp := self._credentials.stamp()) != self._seen:
            self._seen = stamp
            self._transport.close()
        headers = self._credentials.headers(self._base)
        if "Authorization" not in headers:
            return {}
        return {
            "X-IDDS-Auth-Type": "oidc",
            "X-IDDS-Auth-VO": re.split(r"[.:]", headers.get("Origin", ""))[0],
            "X-IDDS-Auth-Token": headers["Authorization"].removeprefix("Bearer "),
        }


class RelayedIdds:
    """The same through the PanDA server, which speaks to iDDS with its own certificate (hpo-contract.md 1)."""

    def __init__(self, wire: Wire) -> None:
        """Speak through ``wire``."""
        self._wire = wire
        self._server = Generations()

    def point(self, task: int, id: str) -> Point | None:  # noqa: A002 - the contract's name
        """One point; None if there is none of this id."""
        found = self._points(task, checked(id))
        return next((one for one in found if one.id == id), None)

    def points(self, task: int) -> list[Point]:
        """All points of a task."""
        return self._points(task, None)

    def tell(self, task: int, id: str, loss: float) -> None:  # noqa: A002 - the contract's name
        """Register a loss."""
        command = "update_hyperparameter"
        data = self._call(command, {"workload_id": task, "request_id": None, "id": checked(id), "loss": _finite(loss)})
        _accepted(command, data)

    def interrupt(self) -> None:
        """End the call in flight."""
        self._wire.interrupt()

    def close(self) -> None:
        """Nothing: the wire is somebody else's."""

    def _points(self, task: int, id: str | None) -> list[Point]:  # noqa: A002 - the contract's name
        command = "get_hyperparameters"
        return _points(command, self._call(command, {"workload_id": task, "request_id": None, "id": id}))

    def _call(self, command: str, arguments: Mapping[str, Any]) -> Any:
        fields = {"command_name": command, "kwargs": json.dumps(arguments)}
        return self._server.call(
            lambda: _relayed(command, self._wire.posted(_RELAY, fields, _CALL)),
            lambda: _relayed(command, self._wire.form(_OLD_RELAY, fields, _CALL)),
        )


def checked(point: str) -> str:
    """An id that is about to stand in a path. Raises ServerRefused for what is no number."""
    if not re.fullmatch(r"[0-9]{1,18}", point):
        raise ServerRefused(f"point {point[:40]!r}: no number, so no point of iDDS")
    return point


def _finite(loss: float) -> float:
    """A loss that is about to be told: iDDS would take NaN as well (table B11)."""
    if not math.isfinite(loss):
        raise ServerRefused(f"loss {loss}: not a finite number, so it is not told")
    return float(loss)


def _check(call: str, answer: Answer) -> None:
    """Raise for any status but 200."""
    if answer.status == _OK:
        return
    said = f"{call}: HTTP {answer.status}: {_reason(answer.headers)}"
    if answer.status in (_UNAUTHORIZED, _FORBIDDEN):
        raise CredentialError(said)
    if answer.status in _SLOW_DOWN:
        raise ServerUnavailable(said)
    if answer.status >= _SERVER_FAULT and not any(one in said for one in _PERMANENT):
        raise ServerUnavailable(said, maybe_done=True)
    raise ServerRefused(said)


def _reason(headers: Mapping[str, str]) -> str:
    """What iDDS says in its header: a text, or an object with one."""
    text = headers.get("ExceptionMessage", "")
    try:
        value = decode_json(text, LOOSE)
        text = str(value["msg"]) if isinstance(value, dict) and "msg" in value else text
    except Garbled:
        pass
    return _first_words(text) or headers.get("ExceptionClass", "no reason given")[:200]


def _first_words(text: str) -> str:
    """One line without the SQL that iDDS may quote."""
    return " ".join(re.split(r"\[SQL|LINE [0-9]+:", text)[0].split())[:200]


def _relayed(command: str, answer: Answer) -> Any:
    """What iDDS said: in an envelope, or, of a server before v1, behind ``true`` in a list."""
    call = f"relay_idds_command {command}"
    value = _json(call, answer)
    if isinstance(value, list) and len(value) == 2:
        value = {"success": value[0], "message": value[1], "data": value[1]}
    if not isinstance(value, dict):
        raise ServerGarbled(f"{call}: the answer is no envelope", maybe_done=True)
    if value.get("success") is True:
        return value.get("data")
    message = _first_words(str(value.get("message")))
    error = refusal(call, message)
    if isinstance(error, ServerRefused) and not any(known in message for known in _PERMANENT + _NO_COMMAND):
        # what iDDS was not able to do just now comes as a refusal as well
        raise ServerUnavailable(str(error), maybe_done=True)
    raise error


def _json(call: str, answer: Answer) -> Any:
    """The answer; NaN and its like are read, as iDDS writes them."""
    try:
        return decode_json(answer.body, LOOSE)
    except Garbled as error:
        raise ServerGarbled(f"{call}: the answer is {error}", maybe_done=True) from None


def _points(call: str, value: Any) -> list[Point]:
    value = _unwrapped(value)
    if not isinstance(value, list) or not all(isinstance(one, dict) and "id" in one for one in value):
        raise ServerGarbled(f"{call}: the answer is no list of points")
    return [Point(str(one["id"]), one.get("parameters"), _loss(one.get("loss"))) for one in value]


def _unwrapped(value: Any) -> Any:
    """The inner one of two envelopes: so it comes with json_outputs, and through a manager."""
    return value["data"] if isinstance(value, dict) and isinstance(value.get("data"), (dict, list)) else value


def _loss(value: Any) -> float | None:
    if value is None:
        return None
    number = finite(value)
    return number if number is not None else math.nan


def _accepted(call: str, value: Any) -> None:
    value = _unwrapped(value)
    if not isinstance(value, dict) or value.get("status") != 0:
        raise ServerUnavailable(f"{call}: not stored: {_first_words(str(value))}", maybe_done=True)
