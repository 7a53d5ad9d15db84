"""The calls by which pilots get proxies, tokens, key pairs and secrets (section 8, texts of B12)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pilot.embedded.database import Database
from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.identity import Caller
from pilot.embedded.wire import Envelope, envelope

_SCHEMA = "CREATE TABLE IF NOT EXISTS secrets (user TEXT, key TEXT, value TEXT, PRIMARY KEY (user, key));"
_TABLE = "DOMA_PANDAMETA.USERS.GRIDPREF"
PROXY, TOKEN_KEY, KEY_PAIR = "p", "t", "k"
_ALL = PROXY + TOKEN_KEY + KEY_PAIR


class TokenMaker(Protocol):
    """Makes tokens; ``key`` is what must be shown for one."""

    key: str

    def mint(self, *, name: str = ...) -> str:
        """A token for somebody."""


class Issuer(Protocol):
    """Makes credentials; what it needs is made when it is asked for the first time."""

    @property
    def tokens(self) -> TokenMaker:
        """The maker of tokens."""

    def proxy(self, name: str) -> str:
        """A short-lived client certificate with its key."""


class CredentialCalls:
    """Answers about credentials. ``permissions`` has the letters (p, t, k) of those who do not have the usual ones.

    Usual is everything for who has the production role, and nothing for others. Key pairs are files in ``keys``.
    """

    def __init__(self, database: Database, issuer: Issuer, permissions: Mapping[str, str], keys: Path) -> None:
        self._database = database
        self._issuer = issuer
        self._permissions = permissions
        self._keys = keys
        database.add(_SCHEMA)

    def handlers(self) -> dict[str, Handler]:
        """The calls by their names."""
        return {
            "creds/get_proxy": self._proxy,
            "creds/get_access_token": self._access_token,
            "creds/get_token_key": self._token_key,
            "creds/get_key_pair": self._key_pair,
            "creds/get_user_secrets": self._secrets,
            "creds/set_user_secrets": self._set_secret,
        }

    def _may(self, caller: Caller, letter: str) -> bool:
        return letter in self._permissions.get(caller.name, _ALL if caller.production else "")

    def _proxy(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        name = visit.caller.name
        if not self._may(visit.caller, PROXY):
            return _refused(f"failed: '{name}' not in authorized users with 'p' in {_TABLE} to get proxy")
        try:
            return envelope(success=True, data={"user_proxy": self._issuer.proxy(asked["dn"] or name)})
        except ValueError as error:  # no name can be like that
            return _refused(f"failed: {error}")

    def _access_token(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        name = visit.caller.name
        if not self._may(visit.caller, PROXY):
            return _refused(f"failed: '{name}' not in authorized users with 'p' in {_TABLE} to get access token")
        if asked["token_key"] != self._issuer.tokens.key:
            return _refused("failed: invalid token key")
        return envelope(success=True, data={"user_proxy": self._issuer.tokens.mint(name=name)})

    def _token_key(self, _asked: Mapping[str, Any], visit: Visit) -> Envelope:
        if not self._may(visit.caller, TOKEN_KEY):
            return _refused(f"Denied since '{visit.caller.name}' not authorized with 't' in {_TABLE}")
        return envelope(success=True, data={"tokenKey": self._issuer.tokens.key})

    def _key_pair(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        if not self._may(visit.caller, KEY_PAIR):
            return _refused(f"Failed since '{visit.caller.name}' not authorized with 'k' in {_TABLE}")
        try:
            pair = {part: self._key(asked[f"{part}_name"]) for part in ("public_key", "private_key")}
        except (OSError, ValueError) as error:
            return _refused(f"Failed since {getattr(error, 'strerror', None) or error}")
        return envelope(success=True, data=pair)

    def _key(self, name: str) -> str:
        return (self._keys / Path(name).name).read_text(encoding="utf-8")

    def _secrets(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        """All of them, or those asked for: as text in which the object is, not as an object."""
        rows = self._database.rows("SELECT key, value FROM secrets WHERE user=? ORDER BY key", (visit.caller.name,))
        wanted = asked["keys"]
        return envelope(
            success=True, data=json.dumps({key: value for key, value in rows if not wanted or key in wanted})
        )

    def _set_secret(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        with self._database.transaction() as connection:
            row = (visit.caller.name, asked["key"], asked["value"])
            connection.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?)", row)
        return envelope(success=True)


def _refused(message: str) -> Envelope:
    return envelope(success=False, message=message)
