"""Who may talk to the server at all: in front of the application, before anything is read or recorded.

A browser can be made to call us by any page that it shows. Such a call names another host (DNS rebinding), or
another origin, and is refused. Our own calls under /local/ need the local token besides.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from werkzeug.wrappers import Response

LOCAL_TOKEN = "local_token"  # noqa: S105 - a file's name
"""The file in the data directory that holds the token of /local/."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_MISSING = (
    f"/local needs the server's local token: send `Authorization: Bearer TOKEN`, with TOKEN from the file "
    f"{LOCAL_TOKEN} in its --data directory"
)
_WRONG = f"not the server's local token: it is a new one at each start, in the file {LOCAL_TOKEN} in --data"
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Access:
    """The application behind its checks. ``names`` are the hosts that the server is, beside those of loopback."""

    def __init__(self, application: Application, names: Iterable[str], port: int, token: str) -> None:
        self._application = application
        self._names = frozenset(map(_plain, (*_LOOPBACK, *names)))
        self._port = port
        self._token = token.encode()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer, as WSGI wants it; of a refused request nothing is read (``pilot.refused``)."""
        refusal = self._refusal(environ)
        if refusal is None:
            return self._application(environ, start_response)
        environ["pilot.refused"] = True
        return refusal(environ, start_response)

    def _refusal(self, environ: Mapping[str, Any]) -> Response | None:
        path = _path(environ)
        if path is None:
            return _refused(400, "the path must be UTF-8 without control characters")
        host, scheme = environ.get("HTTP_HOST"), environ["wsgi.url_scheme"]
        is_local = path == "/local" or path.startswith("/local/")
        if host is None:
            return _refused(400, "a Host header is needed", is_local=is_local)
        if not self._is_ours(scheme, host, environ):
            return _refused(403, "the Host header names another server", is_local=is_local)
        if not self._may_come_from(environ.get("HTTP_ORIGIN"), scheme, environ, is_local=is_local):
            return _refused(403, "requests of other origins are refused", is_local=is_local)
        return self._stranger(environ.get("HTTP_AUTHORIZATION", "")) if is_local else None

    def _is_ours(self, scheme: str, authority: str, environ: Mapping[str, Any]) -> bool:
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            return False
        name = _plain(found[1])
        known = name in self._names or name == _plain(environ.get("pilot.here", ""))
        return known and int(found[2] or _PORTS[scheme]) == self._port

    def _may_come_from(self, origin: str | None, scheme: str, environ: Mapping[str, Any], *, is_local: bool) -> bool:
        """PanDA's own meaning of Origin is an organisation with a role, which no browser sends."""
        if origin is None:
            return True
        own, mark, authority = origin.partition("://")
        if not mark and origin.lower() != "null":
            return not is_local
        return own == scheme and self._is_ours(scheme, authority, environ)

    def _stranger(self, authorization: str) -> Response | None:
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer":
            answer = _refused(401, _MISSING, is_local=True)
            answer.headers["WWW-Authenticate"] = 'Bearer realm="pilot serve"'
            return answer
        if not hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._token):
            return _refused(403, _WRONG, is_local=True)
        return None


def _path(environ: Mapping[str, Any]) -> str | None:
    """The path as the routes will see it; None for one that is no text."""
    try:
        path = str(environ["PATH_INFO"]).encode("latin-1").decode()
    except UnicodeDecodeError:
        return None
    return f"/{path.lstrip('/')}" if re.search(r"[\x00-\x1f\x7f]", path) is None else None


def _plain(name: str) -> str:
    """A host's name, or address, in the one form that is compared."""
    name = name.strip("[]").lower().removesuffix(".")
    try:
        return ipaddress.ip_address(name).compressed
    except ValueError:
        return name


def _refused(status: int, reason: str, *, is_local: bool = False) -> Response:
    if is_local:
        return Response(json.dumps({"error": reason}), status, content_type="application/json")
    return Response(f"ERROR : {reason}\n", status, content_type="text/plain")
