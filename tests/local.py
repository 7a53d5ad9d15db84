"""The local token of an embedded server, for tests that speak to /local/ as its own commands do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase


class LocalToken(AuthBase):
    """The ``auth`` of a session: brings the token along under /local/, and nothing elsewhere."""

    def __init__(self, token: str | Callable[[], str]) -> None:
        """``token`` as it is, or what to ask for it: a server has a new one after each start."""
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if urlsplit(request.url or "").path.startswith("/local/"):
            token = self._token if isinstance(self._token, str) else self._token()
            request.headers["Authorization"] = f"Bearer {token}"
        return request


def local_token(data: Path) -> str:
    """That of the server which has, or had last, this data directory."""
    return (data / "local_token").read_text().strip()
