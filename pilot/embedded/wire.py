"""What travels: a request as the API sees it, an answer, and the envelope that every v1 call answers with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """What the API needs of an HTTP request; ``there`` tells whether the client still waits.

    ``form`` has the parts of a multipart body, whose ``body`` is empty then; ``client`` is the subject of the
    client's certificate ("" without); ``outage`` makes this one call meet a server that has lost its database;
    ``base`` is our URL as the client knows it.
    """

    method: str
    path: str
    query: str
    content_type: str
    content_encoding: str
    accept: str
    body: bytes
    there: Callable[[], bool]
    form: Mapping[str, Any] = field(default_factory=dict)
    length: int = 0
    authorization: str = ""
    origin: str | None = None
    client: str = ""
    outage: bool = False
    base: str = ""

    @property
    def wants_json(self) -> bool:
        """Whether the answer is JSON: either header must be exactly this, or a Python repr comes back."""
        return JSON in (self.content_type, self.accept)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer of the API; it always travels as text/plain."""

    status: int
    text: str


Envelope = dict[str, Any]


def envelope(success: bool | None, message: str = "", data: object = None) -> Envelope:
    """The three keys of every answer."""
    return {"success": success, "message": message, "data": data}


DATABASE_ERROR = "database error in the PanDA server"
NO_JOBS = envelope(success=False, message="No jobs in PanDA")
BUSY_NODE = "Another pilot was updating the worker node at the same time."
