"""Credentials that the server hands out (panda-protocol.md 8): all by GET, all need a permission of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilot.net.transport import Limits
from pilot.panda.wire import Wire, succeeded
from pilot.values.decoding import decode_json
from pilot.values.errors import Garbled, ServerGarbled

_QUERY = Limits(connect_s=15, idle_s=30, total_s=60)


class GrantClient:
    """The credential calls of one server."""

    def __init__(self, wire: Wire) -> None:
        """Speak through ``wire``."""
        self._wire = wire

    def access_token(self, client_name: str, token_key: str) -> str:
        """A fresh token, authorised by the present one; the answer calls it ``user_proxy`` (trap 50)."""
        query = {"client_name": client_name, "token_key": token_key}
        return self._text("get_access_token", query, "user_proxy")

    def proxy(self, role: str = "", dn: str = "") -> str:
        """A proxy as PEM text, for the caller or, with the permission, for ``dn``."""
        return self._text(
            "get_proxy", {key: value for key, value in {"role": role, "dn": dn}.items() if value}, "user_proxy"
        )

    def key_pair(self, public_key_name: str, private_key_name: str) -> tuple[str, str]:
        """An object store's keys."""
        query = {"public_key_name": public_key_name, "private_key_name": private_key_name}
        data = self._data("get_key_pair", query)
        if not isinstance(data, dict) or not {"public_key", "private_key"} <= set(data):
            raise ServerGarbled("get_key_pair: success, but no keys")
        return str(data["public_key"]), str(data["private_key"])

    def user_secrets(self, keys: Sequence[str] = ()) -> Mapping[str, Any]:
        """The caller's secrets, all or those named; the answer is JSON text (C17)."""
        data = self._data("get_user_secrets", {"keys": list(keys)} if keys else {})
        try:
            value = decode_json(data) if isinstance(data, str) else data
        except Garbled as error:
            raise ServerGarbled(f"get_user_secrets: {error}") from None
        if not isinstance(value, dict):
            raise ServerGarbled("get_user_secrets: no object")
        return value

    def _text(self, call: str, query: Mapping[str, Any], key: str) -> str:
        data = self._data(call, query)
        if not isinstance(data, dict) or not isinstance(data.get(key), str) or not data[key]:
            raise ServerGarbled(f"{call}: success, but no {key}")
        return str(data[key])

    def _data(self, call: str, query: Mapping[str, Any]) -> Any:
        return succeeded(call, self._wire.get(f"/api/v1/creds/{call}", query, _QUERY))
