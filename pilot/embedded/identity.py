"""Who is calling: from a client certificate or a bearer token to a name and its rights (panda-protocol.md 1.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pilot.embedded.wire import Request

ROBOT = "Robot Pilot"
"""The name that has the production role by itself, as those that a site's server lists."""


class Denied(Exception):
    """The token is not accepted: the text is the body of the HTTP 403."""


class BadToken(Exception):
    """A token that cannot be read, or is not ours, or has expired; the text says which."""


class Decoder(Protocol):
    """Reads tokens."""

    def decode(self, token: str) -> Mapping[str, Any]:
        """The claims of a valid token; raises BadToken."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a call comes from: a distinguished name ("" for nobody), and whether it has the production role."""

    dn: str = ""
    production: bool = False

    @property
    def secure(self) -> bool:
        """Whether it is known who calls; a limited proxy does not count."""
        return bool(self.dn) and "/CN=limited proxy" not in self.dn

    @property
    def name(self) -> str:
        """The short form of the name, as permissions, secrets and jobs use it."""
        return compact(self.dn)


ANYBODY = Caller("/CN=local", production=True)
"""Who calls a server that demands no credentials."""


def compact(dn: str) -> str:
    """The person or robot in a distinguished name, without what a proxy or a token added to it."""
    return re.sub(r"/CN=(\d+|proxy|limited proxy|nickname:[^/]*)(?=/|$)", "", dn).rpartition("/CN=")[2]


@dataclass(frozen=True, slots=True)
class Gate:
    """Knows callers. ``robots`` have the production role by name, ``vos`` are the organisations there are."""

    decoder: Decoder | None
    robots: Sequence[str] = ()
    vos: Sequence[str] = ()

    def caller(self, request: Request) -> Caller:
        """Who sends a request; raises Denied. With a token and a certificate, the token decides (B8)."""
        if self.decoder is None:
            return ANYBODY
        if request.authorization:
            return self._by_token(request.authorization, request.origin, self.decoder)
        return Caller(request.client, self._is_robot(request.client))

    def _by_token(self, authorization: str, origin: str | None, decoder: Decoder) -> Caller:
        if origin is None:
            raise Denied(_FAILED + _NO_ORIGIN)
        vo, _, role = origin.replace(":", ".").partition(".")
        try:
            claims = decoder.decode(authorization.rpartition(" ")[2])
        except BadToken as error:
            raise Denied(f"{_FAILED}Invalid token. {error}") from None
        if vo not in self.vos:
            raise Denied(f"{_FAILED}Unknown vo : {vo}")
        group = f"{vo}/{role}"
        if role and not {group, f"/{group}"} & set(map(str, claims.get("groups", ()))):
            raise Denied(f"{_FAILED}Not a member of the {group} group")
        dn = _dn(claims)
        return Caller(dn, role == "production" or self._is_robot(dn))

    def _is_robot(self, dn: str) -> bool:
        return any(robot in dn for robot in self.robots)


def _dn(claims: Mapping[str, Any]) -> str:
    name = str(claims.get("name") or claims.get("sub"))
    words = " ".join(word.capitalize() for word in name.split())
    nickname = claims.get("preferred_username")
    return f"/CN={words}" + (f"/CN=nickname:{nickname}" if nickname else "")


_FAILED = "ERROR : Token authentication failed. "
_NO_ORIGIN = """Token decode failure. 'NoneType' object has no attribute 'replace' Traceback (most recent call last):
  File "pandaserver/srvcore/panda_request.py", line 36, in decode_token
    vo_role = vo.replace(":", ".")
              ^^^^^^^^^^
AttributeError: 'NoneType' object has no attribute 'replace'
"""
