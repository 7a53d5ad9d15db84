"""Event ranges: where they are kept, who has which, and what was told of each (panda-protocol.md 7, A9-A13)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilot.embedded.database import Database
from pilot.embedded.jobs import FINAL, Record

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ranges (
    id INTEGER PRIMARY KEY,
    jobset INTEGER NOT NULL,
    task INTEGER NOT NULL,
    file INTEGER NOT NULL,
    process INTEGER NOT NULL,
    last INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    about TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'ready',
    job INTEGER,
    error INTEGER,
    dialog TEXT,
    segment INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS ranges_by_jobset ON ranges (jobset, task, status);
CREATE INDEX IF NOT EXISTS ranges_by_job ON ranges (job, process);
CREATE TABLE IF NOT EXISTS zips (job INTEGER NOT NULL, lfn TEXT NOT NULL, told TEXT NOT NULL, PRIMARY KEY (job, lfn));
"""


@dataclass(frozen=True, slots=True)
class Events:
    """The events of a job as it was submitted: how many, how many in a range, how often one is tried."""

    count: int
    per_range: int = 1
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Tally:
    """How a job's events stand: ranges it finished itself, and ranges of its jobset that somebody must still do."""

    finished: int
    left_over: int


@dataclass(frozen=True, slots=True)
class RangeId:
    """The five numbers of an eventRangeID."""

    task: int
    job: int
    file: int
    process: int
    attempt: int

    @classmethod
    def parse(cls, text: object) -> RangeId | None:
        """The id in a text, None if there is none in it."""
        parts = text.split("-") if isinstance(text, str) else []
        if len(parts) != _PARTS or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
            return None
        return cls(*map(int, parts))


_PARTS = 5


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of one range, checked: ``status`` is finished, failed or fatal."""

    id: RangeId
    status: str
    error: int | None = None
    dialog: str | None = None
    zip: Mapping[str, Any] | None = None


class EventTable:
    """All event ranges. Their jobset is the pool they are taken from; what an ended job left goes back to it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.add(_SCHEMA)
        database.widen("ranges", "segment", "INTEGER NOT NULL DEFAULT 0")

    def acquire(
        self, record: Record, jobset: int, task: int, count: int, segment: int | None = None
    ) -> list[dict[str, Any]]:
        """Up to ``count`` ready ranges, which are the job's from now on; of one ``segment``, or of all."""
        with self._database.transaction() as connection:
            _release(connection, jobset, task)
            rows = connection.execute(
                "SELECT id, file, process, last, attempt, about FROM ranges"
                " WHERE jobset=? AND task=? AND status='ready' AND ? IN (segment, -1) ORDER BY file, process LIMIT ?",
                (jobset, task, -1 if segment is None else segment, count),
            ).fetchall()
            taken = [(record.id, row[0]) for row in rows]
            connection.executemany("UPDATE ranges SET status='sent', job=? WHERE id=?", taken)
        return [_given(record.id, task, *row[1:]) for row in rows]

    # --- points of a study, each an event of jobset 0 (hpo-contract.md 3.1) -----------------------------

    @staticmethod
    def add_point(connection: sqlite3.Connection, task: int, point: int, segment: int, attempts: int) -> None:
        """The event of a new point."""
        about = json.dumps({"LFN": None, "GUID": None, "scope": None})
        connection.execute(
            "INSERT INTO ranges (jobset, task, file, process, last, attempt, about, segment)"
            " VALUES (0, ?, 0, ?, ?, ?, ?, ?)",
            (task, point, point, attempts, about, segment),
        )

    @staticmethod
    def exhausted(connection: sqlite3.Connection, task: int) -> list[int]:
        """The points that nobody will get again: their last attempt has failed, or a pilot has said so."""
        _release(connection, 0, task)
        query = "SELECT process FROM ranges WHERE jobset=0 AND task=? AND status='failed'"
        return [row[0] for row in connection.execute(query, (task,))]

    def count_ready(self, task: int, segment: int) -> int:
        """How many points of a segment wait for somebody to take them."""
        query = "SELECT count(*) FROM ranges WHERE jobset=0 AND task=? AND status='ready' AND segment=?"
        return int(self._database.rows(query, (task, segment))[0][0])

    def holds(self, job: int) -> bool:
        """Whether a job has a point that it has not told the end of."""
        return bool(self._database.rows("SELECT 1 FROM ranges WHERE job=? AND status='sent' LIMIT 1", (job,)))

    def holders(self, task: int) -> dict[int, tuple[int, int | None, bool]]:
        """By point: attempts left, the job that had it last, whether that has it now."""
        query = "SELECT process, attempt, job, status FROM ranges WHERE jobset=0 AND task=?"
        return {
            point: (left, job, status == "sent") for point, left, job, status in self._database.rows(query, (task,))
        }

    def count(self, jobset: int, task: int) -> int:
        """How many ranges are ready."""
        with self._database.transaction() as connection:
            _release(connection, jobset, task)
            query = "SELECT count(*) FROM ranges WHERE jobset=? AND task=? AND status='ready'"
            return int(connection.execute(query, (jobset, task)).fetchone()[0])

    def store(self, told: Sequence[Told], *, ready_too: bool) -> None:
        """Store what was told, all of it or nothing; ``ready_too`` includes ranges that were never handed out."""
        with self._database.transaction() as connection:
            for one in told:
                _store(connection, one, ready_too=ready_too)

    def statuses(self, task: int, job: int) -> dict[str, dict[str, Any]]:
        """The ranges that a job acquired, by their ids as they are now."""
        rows = self._database.rows(
            "SELECT file, process, attempt, status, error, dialog FROM ranges WHERE task=? AND job=? ORDER BY id",
            (task, job),
        )
        return {
            f"{task}-{job}-{file}-{process}-{attempt}": {"status": status, "error": error, "dialog": dialog}
            for file, process, attempt, status, error, dialog in rows
        }

    def tally(self, record: Record) -> Tally:
        """How the events of a job stand."""
        own = "SELECT count(*) FROM ranges WHERE job=? AND status='finished'"
        open_ones = (
            "SELECT count(*) FROM ranges WHERE jobset=? AND task=?"
            " AND (status='ready' OR status='sent' AND (attempt>1 OR job<>?) OR status='failed' AND attempt>1)"
        )
        jobset, task = pool(record.definition)
        finished = self._database.rows(own, (record.id,))
        left_over = self._database.rows(open_ones, (jobset, task, record.id))
        return Tally(int(finished[0][0]), int(left_over[0][0]))

    def summary(self, record: Record) -> dict[str, int]:
        """How many ranges of the job's pool are in which status."""
        query = "SELECT status, count(*) FROM ranges WHERE jobset=? AND task=? GROUP BY status ORDER BY status"
        return dict(self._database.rows(query, pool(record.definition)))


def pool(definition: Mapping[str, Any]) -> tuple[int, int]:
    """Jobset and task of a job: what its ranges are found by. 0 is none."""
    jobset, task = (definition.get(key) for key in ("jobsetID", "taskID"))
    return (jobset if isinstance(jobset, int) else 0), (task if isinstance(task, int) else 0)


def fill(connection: sqlite3.Connection, definition: Mapping[str, Any], events: Events) -> None:
    """Make the ranges of a job that is being submitted; numbered as the live server does, by the first event."""
    jobset, task = pool(definition)
    about = json.dumps(
        {
            key: _first(definition.get(name))
            for key, name in (("LFN", "inFiles"), ("GUID", "GUID"), ("scope", "scopeIn"))
        }
    )
    connection.executemany(
        "INSERT INTO ranges (jobset, task, file, process, last, attempt, about) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (jobset, task, task * 100, first, min(first + events.per_range - 1, events.count), events.attempts, about)
            for first in range(1, events.count + 1, events.per_range)
        ],
    )


def _first(names: object) -> str | None:
    return (str(names).split(",")[0] or None) if names and names != "NULL" else None


def _given(job: int, task: int, file: int, process: int, last: int, attempt: int, about: str) -> dict[str, Any]:
    return {
        "eventRangeID": f"{task}-{job}-{file}-{process}-{attempt}",
        "startEvent": process,
        "lastEvent": last,
        **json.loads(about),
    }


def _release(connection: sqlite3.Connection, jobset: int, task: int) -> None:
    """Take back what ended jobs did not finish: one attempt less and ready again, or failed after the last one.

    What was told to have failed is tried again as well, but for points of a study (hpo-contract.md 0.1).
    """
    connection.execute(_RELEASE, (jobset, task, *FINAL))


_RELEASE = f"""
UPDATE ranges SET
    status=CASE WHEN attempt>1 THEN 'ready' ELSE 'failed' END,
    job=CASE WHEN attempt>1 THEN NULL ELSE job END,
    attempt=max(attempt-1, 1), error=NULL, dialog=NULL
WHERE jobset=? AND task=? AND (status='sent' OR status='failed' AND attempt>1 AND NOT (jobset=0 AND file=0))
    AND job IN (SELECT id FROM jobs WHERE status IN ({",".join("?" * len(FINAL))}))
"""  # noqa: S608 - question marks only


def _store(connection: sqlite3.Connection, told: Told, *, ready_too: bool) -> None:
    one = told.id
    where = "task=? AND file=? AND process=? AND (job=?"
    values: list[object] = [one.task, one.file, one.process, one.job]
    if ready_too:
        where += " OR job IS NULL"
    where += ")"
    fatal = told.status == "fatal"
    # "fatal" on a failed range renames it, every other word about one that has ended changes nothing (A11).
    statuses = ("sent", "ready", "failed") if fatal else ("sent", "ready")
    connection.execute(
        f"UPDATE ranges SET status=?, job=?, error=?, dialog=?, attempt=CASE WHEN ? THEN 1 ELSE attempt END"  # noqa: S608
        f" WHERE {where} AND status IN ({','.join('?' * len(statuses))})",
        ("failed" if fatal else told.status, one.job, told.error, told.dialog, fatal, *values, *statuses),
    )
    if told.zip:
        insert = "INSERT OR IGNORE INTO zips VALUES (?, ?, ?)"
        connection.execute(insert, (one.job, str(told.zip["lfn"]), json.dumps(told.zip)))
