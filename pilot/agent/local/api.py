"""The embedded server as its local users see it: jobs and studies are submitted, files come and go."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests

from pilot.agent import configuration
from pilot.agent.local import servers
from pilot.values.decoding import LOOSE, decode_json
from pilot.values.errors import Garbled, PilotError, UsageError

_LIMITS = (5.0, 60.0)  # connect, idle; seconds
_OK, _UNAUTHORIZED = 200, 401


class LocalServer:
    """One embedded server over HTTP."""

    def __init__(self, url: str, data: Path | None = None) -> None:
        """Nothing is sent yet. Raises UsageError for what is no URL.

        The server's local token is that in ``data``, its data directory; without, that of the environment, or of
        a server of this user on this machine.
        """
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--server: {url[:100]!r} is no http or https URL")
        found = _found(url, data)
        self._url, self._token = found.url.rstrip("/"), found.token
        self._session = requests.Session()
        self._session.trust_env = False
        if found.data and (found.data / "tls/client.pem").is_file():
            files = found.data / "tls"
            self._session.verify, self._session.cert = str(files / "ca.pem"), str(files / "client.pem")

    def __enter__(self) -> Self:
        """Close on leaving the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self._session.close()

    @property
    def url(self) -> str:
        """Its base URL."""
        return self._url

    def submit(self, definition: dict[str, Any]) -> int:
        """Submit a job; its id. Raises UsageError with the server's one line if it refuses."""
        answer = self._json("POST", "/local/jobs", json={"definition": definition})
        return int(answer["id"])

    def status(self, job_id: int) -> dict[str, Any]:
        """The job's status object (DESIGN section 3). Raises UsageError if there is no such job."""
        answer = self._json("GET", f"/local/jobs/{job_id}")
        if not isinstance(answer, dict):
            raise PilotError(f"{self._url}: the status of job {job_id} is no object")
        return answer

    def submit_study(self, submission: dict[str, Any]) -> int:
        """Submit a study; its task. Raises UsageError with the server's one line if it refuses."""
        return int(self._json("POST", "/local/studies", json=submission)["task"])

    def study(self, task: int) -> dict[str, Any]:
        """The study's status object. Raises UsageError if there is no such study."""
        answer = self._json("GET", f"/local/studies/{task}")
        if not isinstance(answer, dict):
            raise PilotError(f"{self._url}: the status of study {task} is no object")
        return answer

    def keep(self, name: str, content: bytes) -> None:
        """Put a sandbox into the cache, where it stays what it is. Raises UsageError if the server refuses it."""
        path = "/api/v1/file_server/upload_cache_file"
        file = {"file": (name, content, "application/octet-stream")}
        answer = self._json("POST", path, files=file, headers={"Accept": "application/json"})
        said = str(answer.get("message") or "")
        if not answer.get("success") and "cannot overwrite" not in said:
            raise UsageError(f"the sandbox: {said or 'refused'}; training data belong under evaluation.inputs")

    def upload(self, file: Path) -> str:
        """Store a local file; its URL. Raises UsageError if it cannot be read."""
        url = f"{self._url}/store/submitted/{uuid.uuid4()}/{quote(file.name)}"
        try:
            with file.open("rb") as stream:
                answer = self._send("PUT", url, data=stream)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror or error}") from None
        if not answer.ok:
            raise PilotError(f"upload of {file}: HTTP {answer.status_code}: {answer.text[:200]}")
        return url

    def download(self, url: str, target: Path) -> None:
        """Fetch a stored file."""
        with self._send("GET", url, stream=True) as answer, target.open("wb") as stream:
            if answer.status_code != _OK:
                raise PilotError(f"{url}: HTTP {answer.status_code}")
            for piece in answer.iter_content(1 << 20):
                stream.write(piece)

    def _json(self, method: str, path: str, **more: Any) -> Any:
        answer = self._send(method, self._url + path, auth=self._authorised(path), allow_redirects=False, **more)
        if answer.status_code == _UNAUTHORIZED and path.startswith("/local/"):
            raise UsageError(
                f"{self._url} wants its local token: call it as the user and on the machine of `pilot serve`, or set"
                f" {configuration.LOCAL_TOKEN} to the content of {servers.TOKEN_FILE} in its --data directory"
            )
        try:
            value = decode_json(answer.content, LOOSE)
        except Garbled:
            raise PilotError(f"{self._url}: not an embedded PanDA server? (HTTP {answer.status_code})") from None
        if answer.status_code != _OK:
            said = value.get("error") if isinstance(value, dict) else None
            raise UsageError(str(said or f"{path}: HTTP {answer.status_code}"))
        return value

    def _authorised(self, path: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
        """Adds the token where it is wanted, and nowhere else."""

        def add(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if self._token and path.startswith("/local/"):
                request.headers["Authorization"] = f"Bearer {self._token}"
            return request

        return add

    def _send(self, method: str, url: str, **more: Any) -> requests.Response:
        try:
            return self._session.request(method, url, timeout=_LIMITS, **more)
        except requests.exceptions.SSLError as error:
            raise PilotError(f"{self._url}: its certificate is not trusted: {_reason(error)}") from None
        except requests.ConnectionError:
            raise PilotError(f"no server at {self._url}: start one with `pilot serve`") from None
        except requests.RequestException as error:
            raise PilotError(f"{url}: {error}") from None


def _found(url: str, data: Path | None) -> servers.Known:
    """The server, with a token if there is one."""
    if data is not None:
        return servers.Known(url, data, servers.token_in(data))
    given, places = configuration.local_token(), configuration.runtime_places()
    found = servers.known(url, places) or servers.Known(url)
    return replace(found, token=servers.checked(given)) if given else found


def _reason(error: BaseException) -> str:
    """The innermost of what requests has wrapped."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)[:200]
