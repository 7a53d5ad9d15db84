"""PanDA's v1 API as requests and envelopes: encoding, credentials, and what each kind of failure means.

HTTP 200 means nothing and ``success: true`` means little (panda-protocol.md 17.1): every answer becomes an
envelope or one of the errors, whose class says whether to try again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

from urllib3.filepost import encode_multipart_formdata

from pilot.net.credentials import Credentials
from pilot.net.transport import Answer, Limits, Transport
from pilot.panda.decode import parse_json
from pilot.values.decoding import DOCUMENT as DOCUMENT_RULES
from pilot.values.decoding import decode_json
from pilot.values.errors import (
    BadJob,
    CredentialError,
    Garbled,
    NotJson,
    ServerGarbled,
    ServerRefused,
    ServerUnavailable,
)
from pilot.values.redaction import Redactor

DOCUMENT = Limits(connect_s=15, idle_s=30, total_s=60, most_bytes=DOCUMENT_RULES.most_bytes)
UPLOAD = Limits(connect_s=15, idle_s=60, total_s=300)

MOST_MESSAGE = 500
_HTTP_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _SLOW_DOWN, _SERVER_FAULT = 200, 401, 403, 404, (408, 429), 500
_GATEWAY = (502, 504)  # who says so is not the server, which may have done it
_NO_CREDENTIAL = ("SSL secure connection is required", "production or pilot role", "no production/pilot role")
_PASSING = ("Timed out", "Database error", "database error in the PanDA server")
_PERMANENT_500 = (
    "types.UnionType",
    "isinstance() arg 2",
    "argument after ** must be a mapping",
    "received invalid JSON",
    "Not a gzipped file",
    "codec can't decode",
    "unhashable type",
    "Type not serializable",
)  # corrections A19, A10: these come from the request itself, or from the answer's own code, and never heal


class Wire:
    """One PanDA server, with the pilot's credentials. Not thread-safe: each thread has its own."""

    def __init__(
        self,
        transport: Transport,
        base: str,
        version: str,
        credentials: Credentials | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        """Speak through ``transport``; ``version`` goes into the User-Agent. ``answers`` counts the good ones.

        ``redactor`` knows the secrets that no text may hold which is sent.
        """
        self.redactor = redactor or Redactor()
        self._transport = transport
        self._base = base
        self._credentials = credentials
        self._seen = credentials.stamp() if credentials is not None else ()
        self.answers = 0
        self._headers = {"User-Agent": f"panda-pod-pilot/{version}", "Accept": "application/json"}

    def post(self, path: str, body: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
        """POST a JSON object; the envelope, whatever its ``success``."""
        return decode(self._post(path, body, limits))

    def post_for_jobs(self, path: str, body: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
        """The same for an answer that holds job definitions: BadJob where one is beyond all measure."""
        return _decode_jobs(self._post(path, body, limits))

    def get(self, path: str, query: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
        """GET; the envelope, whatever its ``success``."""
        return decode(self._send("GET", path, limits, query=query))

    def document(self, url: str) -> Any:
        """GET a JSON document (queue or storage data) by absolute URL, or by path on the server.

        No credential goes along: these files are public, and may lie elsewhere.
        """
        answer = self._transport.call("GET", url, headers=self._headers, limits=DOCUMENT)
        check_status(f"GET {url}", answer)
        try:
            return decode_json(answer.body, DOCUMENT_RULES)
        except Garbled as error:
            raise ServerGarbled(f"GET {url}: {error}") from None

    def upload(self, url: str, name: str, content: bytes) -> dict[str, Any]:
        """POST a file, as it is, as multipart part ``file`` (panda-protocol.md 12.1); the envelope."""
        body, content_type = encode_multipart_formdata({"file": (name, content, "application/octet-stream")})
        return decode(self._send("POST", url, UPLOAD, payload=body, content_type=content_type))

    def posted(self, path: str, body: Mapping[str, Any], limits: Limits) -> Answer:
        """POST a JSON object; the answer as it came, for what is no envelope of the server's own."""
        return self._post(path, body, limits)

    def form(self, path: str, fields: Mapping[str, Any], limits: Limits) -> Answer:
        """POST a form, as the calls before v1 want it; the answer as it came."""
        body = urlencode(fields).encode()
        return self._send("POST", path, limits, payload=body, content_type="application/x-www-form-urlencoded")

    def stream(self, path: str, body: BinaryIO | RawIOBase, content_type: str, limits: Limits) -> dict[str, Any]:
        """POST what is read piece by piece; the envelope."""
        headers = {**self._headers, "Content-Type": content_type, **self._authorised(path)}
        answer = self._transport.call("POST", path, body=body, headers=headers, limits=limits)
        check_status(f"POST {path}", answer)
        return decode(answer)

    def fetch(self, url: str, target: Path, limits: Limits) -> bool:
        """GET a public file into ``target``, without any credential; False if there is none (404)."""
        answer = self._transport.call("GET", url, headers=self._headers, limits=limits, target=target, anonymous=True)
        if answer.status == _NOT_FOUND:
            return False
        check_status(f"GET {url}", answer)
        return True

    def renewed(self) -> bool:
        """Whether a file with a credential was replaced since the last call."""
        return self._credentials is not None and self._credentials.stamp() != self._seen

    def interrupt(self) -> None:
        """End the call in flight; may be called from any thread."""
        self._transport.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _post(self, path: str, body: Mapping[str, Any], limits: Limits) -> Answer:
        # exactly application/json: with a charset behind it the server sees no parameters
        payload = json.dumps(body, allow_nan=False).encode()
        return self._send("POST", path, limits, payload=payload, content_type="application/json")

    def _send(
        self,
        method: str,
        url: str,
        limits: Limits,
        *,
        payload: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        content_type: str | None = None,
    ) -> Answer:
        """One request; once more where the server refuses a token that the file has replaced meanwhile."""
        headers = {**self._headers, **({"Content-Type": content_type} if content_type else {})}
        sent = self._authorised(url)
        answer = self._transport.call(method, url, body=payload, query=query, headers=headers | sent, limits=limits)
        if answer.status in (_UNAUTHORIZED, _FORBIDDEN) and (again := self._authorised(url)) != sent:
            answer = self._transport.call(
                method, url, body=payload, query=query, headers=headers | again, limits=limits
            )
        check_status(f"{method} {url}", answer)
        self.answers += 1
        return answer

    def _authorised(self, url: str) -> dict[str, str]:
        """The credential's headers; connections are made anew when its files have changed."""
        if self._credentials is None:
            return {}
        if (stamp := self._credentials.stamp()) != self._seen:
            self._seen = stamp
            self._transport.close()
        return self._credentials.headers(url if "://" in url else self._base)


def check_status(call: str, answer: Answer) -> None:
    """Raise for any status but 200 (panda-protocol.md 1.5 and corrections A19)."""
    if answer.status == _HTTP_OK:
        return
    text = " ".join(answer.body[:500].decode("utf-8", "replace").split())[:300]
    said = f"{call}: HTTP {answer.status}: {text}"
    if answer.status == _UNAUTHORIZED or (answer.status == _FORBIDDEN and _is_about_credentials(text)):
        raise CredentialError(said)
    if answer.status >= _SERVER_FAULT and not any(known in text for known in _PERMANENT_500):
        raise ServerUnavailable(said, maybe_done=answer.status in _GATEWAY)
    if answer.status in _SLOW_DOWN:
        raise ServerUnavailable(said)
    raise ServerRefused(said)


def _is_about_credentials(text: str) -> bool:
    return "oken" in text or "is banned" in text or "AttributeError" in text  # the last: a token without Origin (B8)


def decode(answer: Answer) -> dict[str, Any]:
    """The envelope of an answer that holds no job: where it is beyond all measure, it is garbled."""
    try:
        return _decode_jobs(answer)
    except BadJob as error:
        raise ServerGarbled(f"the answer is {error.reason}", maybe_done=True) from None


def _decode_jobs(answer: Answer) -> dict[str, Any]:
    """The envelope of an answer, told by its content and not by its header (trap 8)."""
    try:
        value = parse_json(answer.body)
    except NotJson as error:
        start = answer.body[:80].decode("utf-8", "replace")
        raise ServerGarbled(f"the answer is {error}: {start!r}", maybe_done=True) from None
    if not isinstance(value, dict):
        raise ServerGarbled("the answer is no JSON object", maybe_done=True)
    return value


def succeeded(call: str, envelope: Mapping[str, Any]) -> Any:
    """The ``data`` of an envelope with success. Raises what its message means else.

    An object that says neither yes nor no is nobody's envelope: that is no refusal, and it is asked again.
    """
    success = envelope.get("success")
    if success is True:
        return envelope.get("data")
    if success is not False:
        raise ServerGarbled(f"{call}: the answer does not say whether it succeeded", maybe_done=True)
    raise refusal(call, message_of(envelope))


def message_of(envelope: Mapping[str, Any]) -> str:
    """The message of an envelope, as far as people read."""
    return str(envelope.get("message"))[:MOST_MESSAGE]


def refusal(call: str, message: str) -> CredentialError | ServerRefused | ServerUnavailable:
    """The error that a message of ``success: false`` means."""
    if any(known in message for known in _NO_CREDENTIAL):
        return CredentialError(f"{call}: {message}")
    if message in _PASSING:
        return ServerUnavailable(f"{call}: {message}")
    return ServerRefused(f"{call}: {message}")
