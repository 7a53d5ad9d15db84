"""The PanDA v1 API: from an HTTP request to the live server's answer, word for word."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from pilot.embedded import documents, outage
from pilot.embedded.calls import CALLS
from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.identity import Caller, Denied, Gate
from pilot.embedded.legacy import Legacy
from pilot.embedded.signatures import Call, Crashed, Refused
from pilot.embedded.wire import JSON, Answer, Envelope, Request, envelope


class Api:
    """Answers calls: checks who calls and with what, and leaves the rest to the call's handler."""

    def __init__(self, gate: Gate, *handlers: Mapping[str, Handler], legacy: bool = False) -> None:
        """``legacy``: also the calls of hyper-parameter jobs from before v1."""
        self._gate = gate
        self._legacy = Legacy(*handlers) if legacy else None
        self._handlers = {name: handler for group in handlers for name, handler in group.items()}

    def answer(self, request: Request) -> Answer:
        """The answer to a request whose path begins with /api or /server."""
        call = _find(request.path)
        legacy = self._legacy if self._legacy and self._legacy.knows(request.path) else None
        try:
            if legacy:
                return legacy.answer(request.path, parameters(request), Visit(request, self._gate.caller(request)))
            if call is None:
                return Answer(403, f"ERROR : method {request.path.rpartition('/')[2]} is forbidden")
            told = self._run(call, request, self._gate.caller(request))
        except Denied as denial:
            return Answer(403, str(denial))
        except documents.Unreadable as error:
            return Answer(error.status, f"ERROR : {error}")
        except (Crashed, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
            return Answer(500, str(error))
        return Answer(200, json.dumps(told) if request.wants_json else str(told))

    def _run(self, call: Call, request: Request, caller: Caller) -> Envelope:
        sent = parameters(request)
        try:
            _authorise(call, caller)
            arguments = call.check(request.method, sent)
        except Refused as refusal:
            return envelope(success=False, message=str(refusal))
        if request.outage:
            return outage.answer(call.module, call.name, arguments)
        return self._handlers[f"{call.module}/{call.name}"](arguments, Visit(request, caller))


def _find(path: str) -> Call | None:
    parts = path.split("/")
    if len(parts) != len(("", "api", "v1", "module", "name")) or parts[:3] != ["", "api", "v1"]:
        return None
    return CALLS.get((parts[3], parts[4]))


def _authorise(call: Call, caller: Caller) -> None:
    """Raise Refused for a caller who may not do this."""
    if call.secure and not caller.secure:
        raise Refused("SSL secure connection is required")
    if call.production and not caller.production:
        raise Refused("production or pilot role required")


def parameters(request: Request) -> object:
    """What a request sends: a JSON value, a form's texts and files, or the texts of the query string."""
    if request.method == "GET":
        return _texts(request.query)
    if request.content_type == JSON:
        return _json(plain_body(request))
    if request.content_type.partition(";")[0].strip() == "application/x-www-form-urlencoded":
        if len(request.body) > _LARGEST_FORM:
            raise documents.TooLarge(_LARGEST_FORM)
        return _texts(request.body.decode("utf-8", "replace"))
    return dict(request.form)


def _json(body: bytes) -> object:
    try:
        return documents.loads(body)
    except json.JSONDecodeError as error:
        raise Crashed(f"ERROR : received invalid JSON : {error}") from None


def plain_body(request: Request) -> bytes:
    """The body without its compression. Raises OSError, EOFError or zlib.error if it is not gzip, TooLarge."""
    is_packed = request.content_encoding.strip().lower() == "gzip"
    return documents.unpacked(request.body) if is_packed else request.body


def _texts(encoded: str) -> dict[str, Any]:
    """A query string as the server reads it: a repeated key is a list, a single one stays a text."""
    try:
        told = parse_qs(encoded, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise documents.Unreadable(f"more than {_MOST_FIELDS} fields") from None
    return {key: several[0] if len(several) == 1 else several for key, several in told.items()}


_MOST_FIELDS = 10_000
_LARGEST_FORM = 2**18
