"""What the embedded server has recorded of a run, read over HTTP and put in order by job: what the checker judges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import requests

from pilot.embedded import definition

FINALS = ("finished", "failed")
SERVER_ENDS = ("finished", "failed", "cancelled", "merging")
_TIMEOUT_S = 30.0
_OK = 200


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded call of a pilot: ``sent`` is its body; ``left_at`` is when its answer was given, lost or not."""

    seq: int
    at: float
    left_at: float
    call: str
    sent: Mapping[str, Any]
    answer: Mapping[str, Any]
    fault: str | None
    lost: bool

    @property
    def state(self) -> str:
        """What an update said."""
        return str(self.sent.get("job_status"))

    @property
    def refused(self) -> bool:
        """Whether the server said clearly that it has not taken it. No answer, or a garbled one, is not clear."""
        code = as_object(self.answer.get("data")).get("StatusCode", 0)
        return bool(self.answer) and (self.answer.get("success") is not True or code != 0)

    @property
    def when(self) -> str:
        """For messages."""
        return f"at {datetime.fromtimestamp(self.at).astimezone():%H:%M:%S} (request {self.seq})"

    @property
    def given(self) -> list[Mapping[str, Any]]:
        """The definitions that an acquire brought; a fault's answer is none of the server's."""
        jobs = as_object(self.answer.get("data")).get("jobs")
        if self.call != "acquire_jobs" or self.fault in ("status", "garbage") or not isinstance(jobs, list):
            return []
        return [one for one in jobs if isinstance(as_object(one).get("PandaID"), int)]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job as the server saw it: a retry has an id of its own, so that a job is one attempt.

    ``state`` is the server's, None if it knows no such job.
    """

    job: int
    state: str | None
    definition: Mapping[str, Any]
    handed: tuple[Request, ...]
    updates: tuple[Request, ...]

    @property
    def finals(self) -> list[Request]:
        """The finals that were said: also those that may not have arrived in the end."""
        return [one for one in self.updates if one.state in FINALS and not one.refused]

    @property
    def got(self) -> bool:
        """Whether a pilot knows of it: a job that was handed out in a lost answer is nobody's."""
        return bool(self.updates) or any(not one.lost for one in self.handed)

    @property
    def has_ended(self) -> bool:
        """Whether the server has an end of it; what is in holding waits only for the server's own verdict."""
        return self.state in SERVER_ENDS or (self.state == "holding" and any(one.answer for one in self.finals))

    def names(self, key: str) -> list[str]:
        """A comma list of the definition."""
        text = self.definition.get(key)
        return [name for name in text.split(",") if name] if isinstance(text, str) and text != "NULL" else []


@dataclass(frozen=True, slots=True)
class History:
    """The calls of pilots in order, the attempts of jobs, and what was stored when (number and path).

    ``losses`` are those of hyper-parameter points that iDDS has taken, in order: task, point, loss.
    """

    calls: tuple[Request, ...]
    attempts: tuple[Attempt, ...]
    puts: tuple[tuple[int, str], ...]
    losses: tuple[tuple[str, str, str], ...] = ()

    @property
    def nameless(self) -> list[Request]:
        """Updates that do not say which job they are about."""
        return [one for one in self.calls if one.call == "update_job" and not isinstance(one.sent.get("job_id"), int)]


def read(url: str, session: requests.Session) -> History:
    """All that a server knows."""
    rows = _get(session, f"{url}/local/requests")["requests"]
    states = {int(one["id"]): str(one["state"]) for one in _get(session, f"{url}/local/jobs")["jobs"]}
    calls = tuple(_request(one) for one in rows if "/api/v1/pilot/" in one["path"])
    posts = [one for one in rows if one["path"] == "/local/jobs" and one["method"] == "POST"]
    puts = (
        (one["seq"], unquote(one["path"])) for one in rows if one["method"] == "PUT" and one["status"] in (201, 204)
    )
    return History(calls, tuple(_attempts(calls, states, posts)), tuple(puts), tuple(_losses(rows)))


def _losses(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for one in rows:
        found = re.fullmatch(r"/idds/hpo/(\d+)/[^/]+/(\d+)/([^/]+)", one["path"])
        if found and one["method"] == "PUT" and one["status"] == _OK:
            yield found[1], found[2], found[3]


def _get(session: requests.Session, url: str) -> Any:
    with session.get(url, timeout=_TIMEOUT_S) as answer:
        answer.raise_for_status()
        return answer.json()


def _request(row: Mapping[str, Any]) -> Request:
    at = datetime.fromisoformat(row["time"]).timestamp()
    return Request(
        row["seq"],
        at,
        at + (row["duration_s"] or 0.0),
        row["path"].rpartition("/")[2],
        as_object(decoded(row["body"])),
        as_object(decoded(row["answer"] or "")),
        row["fault"],
        row["status"] is None,
    )


def _attempts(
    calls: Iterable[Request], states: Mapping[int, str], posts: Iterable[Mapping[str, Any]]
) -> Iterator[Attempt]:
    """Every job that was handed out or told of."""
    handed: dict[int, list[Request]] = {}
    updates: dict[int, list[Request]] = {}
    made: dict[int, Mapping[str, Any]] = {}
    for one in calls:
        job = one.sent.get("job_id")
        if one.call == "update_job" and isinstance(job, int):
            updates.setdefault(job, []).append(one)
        for given in one.given:
            made[given["PandaID"]] = given
            handed.setdefault(given["PandaID"], []).append(one)
    pushed = {as_object(decoded(one["answer"] or "")).get("id"): one["body"] for one in posts}
    for job in sorted({*handed, *updates}):
        told = made.get(job) or _as_submitted(job, pushed.get(job, ""))
        yield Attempt(job, states.get(job), told, tuple(handed.get(job, ())), tuple(updates.get(job, ())))


def _as_submitted(job: int, body: str) -> Mapping[str, Any]:
    """The definition of a job that nobody asked for: in push mode a pilot gets it from elsewhere."""
    try:
        return definition.parse(decoded(body)).build(job)
    except ValueError:
        return {}


def decoded(text: str) -> Any:
    """JSON as a value; any other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_object(value: Any) -> Mapping[str, Any]:
    """A JSON object; an empty one instead of anything else."""
    return value if isinstance(value, dict) else {}
