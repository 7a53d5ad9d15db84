"""Every request in order of its arrival, with its answer: what a checker reads."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pilot.embedded.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    body TEXT NOT NULL,
    jobs TEXT NOT NULL,
    fault TEXT,
    status INTEGER,
    answer TEXT,
    duration_s REAL
);
CREATE TABLE IF NOT EXISTS request_jobs (job INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (job, seq));
"""


class RequestLog:
    """The recorded requests. They survive the server's end, but are not fsynced one by one."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, durable=False)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def arrived(self, method: str, path: str, body: str, jobs: Iterable[int]) -> int:
        """Note a request before anything is done about it; returns its number."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO requests (at, method, path, body, jobs) VALUES (?, ?, ?, ?, '[]')",
                (time.time(), method, path, body),
            )
            seq = int(cursor.lastrowid or 0)
            _tie(connection, seq, jobs)
        return seq

    def answered(self, seq: int, status: int | None, answer: str, jobs: Iterable[int], fault: str | None) -> None:
        """Note how a request was answered; status None means that it was not."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE requests SET status=?, answer=?, fault=?, duration_s=?-at WHERE seq=?",
                (status, answer, fault, time.time(), seq),
            )
            _tie(connection, seq, jobs)

    def list(self, job: int | None = None) -> list[dict[str, Any]]:
        """All requests, or those that name a job, in order."""
        chosen = " WHERE seq IN (SELECT seq FROM request_jobs WHERE job=?)" if job is not None else ""
        query = f"SELECT seq, at, method, path, body, jobs, fault, status, answer, duration_s FROM requests{chosen}"  # noqa: S608
        rows = self._database.rows(f"{query} ORDER BY seq", () if job is None else (job,))
        return [_shown(row) for row in rows]


def _tie(connection: Any, seq: int, jobs: Iterable[int]) -> None:
    known = [job for job in jobs if -(2**63) <= job < 2**63]
    if known:
        connection.executemany("INSERT OR IGNORE INTO request_jobs VALUES (?, ?)", [(job, seq) for job in known])
        tied = connection.execute("SELECT job FROM request_jobs WHERE seq=? ORDER BY job", (seq,)).fetchall()
        connection.execute("UPDATE requests SET jobs=? WHERE seq=?", (json.dumps([row[0] for row in tied]), seq))


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    seq, at, method, path, body, jobs, fault, status, answer, duration_s = row
    tied = json.loads(jobs)
    return {
        "seq": seq,
        "time": iso(at),
        "method": method,
        "path": path,
        "body": body,
        "job": tied[0] if tied else None,
        "jobs": tied,
        "fault": fault,
        "status": status,
        "answer": answer,
        "duration_s": duration_s,
    }


def iso(at: float) -> str:
    """A time as text, UTC, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).isoformat()
