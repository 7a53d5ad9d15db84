"""Credentials of this server's own: made when somebody asks for the first time, so that most servers need none."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.values.errors import UsageError

if TYPE_CHECKING:
    from pilot.embedded.authority import Authority
    from pilot.embedded.tokens import Tokens

_PROXY_S = 12 * 3600.0


class OwnIssuer:
    """The authority in ``data``/tls and the tokens in ``data``/tokens."""

    def __init__(self, data: Path, token_lifetime_s: float) -> None:
        self._data = data
        self._token_lifetime_s = token_lifetime_s
        self._lock = threading.Lock()
        self._authority: Authority | None = None
        self._tokens: Tokens | None = None

    @property
    def authority(self) -> Authority:
        """The certificate authority."""
        with self._lock:
            if self._authority is None:
                self._authority = self._make_authority()
            return self._authority

    @property
    def tokens(self) -> Tokens:
        """The maker of tokens."""
        with self._lock:
            if self._tokens is None:
                self._tokens = self._make_tokens()
            return self._tokens

    def proxy(self, name: str) -> str:
        """A short-lived client certificate with its key."""
        return self.authority.client(name, _PROXY_S)

    def decode(self, token: str) -> Mapping[str, Any]:
        """The claims of a valid token; raises BadToken."""
        return self.tokens.decode(token)

    def _make_authority(self) -> Authority:
        try:
            from pilot.embedded.authority import Authority  # noqa: PLC0415 - slow, and seldom needed
        except ImportError as error:
            raise _missing(error) from None
        return Authority(self._data / "tls")

    def _make_tokens(self) -> Tokens:
        try:
            from pilot.embedded.tokens import Tokens  # noqa: PLC0415 - slow, and seldom needed
        except ImportError as error:
            raise _missing(error) from None
        return Tokens(self._data / "tokens", self._token_lifetime_s)


def _missing(error: ImportError) -> UsageError:
    return UsageError(f"certificates and tokens need more packages: pip install 'panda-pod-pilot[embedded]' ({error})")
