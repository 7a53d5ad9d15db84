"""What the embedded server keeps of jobs; whatever a method changed is on disk when it returns."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pilot.embedded.jobs import Record
from pilot.embedded.selection import Wanted

Answer = TypeVar("Answer")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    memory_mib INTEGER NOT NULL DEFAULT 0,
    disk_mib INTEGER NOT NULL DEFAULT 0,
    walltime_s INTEGER NOT NULL DEFAULT 0,
    definition TEXT NOT NULL,
    state TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, queue, priority DESC, id);
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY,
    job INTEGER NOT NULL,
    at REAL NOT NULL,
    call TEXT NOT NULL,
    state TEXT NOT NULL,
    answer TEXT
);
CREATE INDEX IF NOT EXISTS history_by_job ON history (job, id);
"""


class Database:
    """One SQLite file in WAL mode, used by many threads, one transaction at a time.

    ``durable`` makes each commit reach the disk (synchronous=FULL); without it a commit survives the end of
    the process, but perhaps not that of the machine.
    """

    def __init__(self, path: Path, schema: str = "", *, durable: bool) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self.add(schema)

    def add(self, schema: str) -> None:
        """Make tables, where they are not there yet."""
        with self._lock:
            self._connection.executescript(schema)

    def widen(self, table: str, column: str, kind: str) -> None:
        """Give a table of an earlier version a column that it lacks."""
        with self._lock:
            present = {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}
            if column not in present:
                self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a transaction: committed at the end, undone by an exception."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(query, parameters).fetchall()

    def close(self) -> None:
        """Close the file; later calls fail."""
        with self._lock:
            self._connection.close()


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a job's history: ``state`` is what was said, ``answer`` what the server replied to it."""

    at: float
    call: str
    state: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Change(Generic[Answer]):
    """What a step makes of a job: the record to store and the line to note (None: neither), and an answer.

    ``again`` makes a new job of the same definition, the next attempt, in the same transaction.
    """

    answer: Answer
    record: Record | None = None
    entry: Entry | None = None
    again: bool = False


class JobTable:
    """The jobs, and what happened to each of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.add(_SCHEMA)

    def submit(
        self,
        queue: str,
        build: Callable[[int], Mapping[str, Any]],
        now: float,
        *,
        max_attempt: int = 0,
        also: Callable[[sqlite3.Connection, Mapping[str, Any]], None] = lambda *_: None,
    ) -> int:
        """Store a new job and return its id; ``build`` makes its definition once the id is known.

        ``also`` stores in the same transaction what belongs to the job elsewhere.
        """
        with self._database.transaction() as connection:
            record = _insert(connection, queue, build, now, max_attempt)
            also(connection, record.definition)
        return record.id

    def acquire(self, wanted: Wanted, step: Callable[[Record], Change[Any]], there: Callable[[], bool]) -> list[Record]:
        """Hand out jobs, best first, each once; none if the client is not ``there`` any more."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE status='activated' AND queue=?"  # noqa: S608 - no input in it
                " AND (?=0 OR memory_mib<=?) AND (?=0 OR disk_mib<=?) AND (?=0 OR walltime_s<=?)"
                " ORDER BY priority DESC, id",
                (
                    wanted.queue,
                    *(wanted.memory_mib, wanted.memory_mib),
                    *(wanted.disk_mib, wanted.disk_mib),
                    *(wanted.remaining_s, wanted.remaining_s),
                ),
            )
            fitting = (record for record in map(_record, rows) if wanted.fits(record.definition))
            chosen = list(itertools.islice(fitting, wanted.count))
            if not chosen or not there():
                return []
            changes = [step(record) for record in chosen]
            for change in changes:
                _apply(connection, change)
        return [change.record for change in changes if change.record]

    def change(self, job_id: int, step: Callable[[Record | None], Change[Answer]]) -> Answer:
        """Let ``step`` see a job and change it, in one transaction; returns the step's answer."""
        with self._database.transaction() as connection:
            change = step(_load(connection, job_id))
            _apply(connection, change, job_id)
        return change.answer

    def load(self, job_id: int) -> Record | None:
        """One job, None if there is none of this id."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM jobs WHERE id=?", (job_id,))  # noqa: S608
        return _record(rows[0]) if rows else None

    def all(self, *statuses: str) -> list[Record]:
        """All jobs, or those in the given states, in order of their ids."""
        marks = ",".join("?" * len(statuses))
        where = f" WHERE status IN ({marks})" if statuses else ""
        query = f"SELECT {_COLUMNS} FROM jobs{where} ORDER BY id"  # noqa: S608
        return [_record(row) for row in self._database.rows(query, statuses)]

    def queues(self) -> set[str]:
        """Every queue that a job was submitted to."""
        return {row[0] for row in self._database.rows("SELECT DISTINCT queue FROM jobs")}

    def sent(self, queue: str) -> int:
        """How many jobs of a queue have been handed out and not been heard of."""
        return int(self._database.rows("SELECT count(*) FROM jobs WHERE status='sent' AND queue=?", (queue,))[0][0])

    def history(self, job_id: int) -> list[Entry]:
        """What happened to a job, in order."""
        rows = self._database.rows("SELECT at, call, state, answer FROM history WHERE job=? ORDER BY id", (job_id,))
        return [Entry(*row) for row in rows]


_COLUMNS = "id, queue, status, definition, state"
_APART = ("id", "queue", "status", "definition")


def _record(row: Sequence[Any]) -> Record:
    job_id, queue, status, definition, state = row
    return Record(id=job_id, queue=queue, status=status, definition=json.loads(definition), **json.loads(state))


def _load(connection: sqlite3.Connection, job_id: int) -> Record | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id=?", (job_id,)).fetchone()  # noqa: S608
    return _record(row) if row else None


def _save(connection: sqlite3.Connection, record: Record) -> None:
    state = {one.name: getattr(record, one.name) for one in fields(record) if one.name not in _APART}
    connection.execute("UPDATE jobs SET status=?, state=? WHERE id=?", (record.status, json.dumps(state), record.id))


def _insert(
    connection: sqlite3.Connection,
    queue: str,
    build: Callable[[int], Mapping[str, Any]],
    now: float,
    max_attempt: int,
) -> Record:
    cursor = connection.execute(
        "INSERT INTO jobs (queue, status, definition, state) VALUES (?, 'activated', '', '')", (queue,)
    )
    job_id = int(cursor.lastrowid or 0)
    definition = build(job_id)
    record = Record(job_id, queue, "activated", _attempt(definition), definition, now, max_attempt=max_attempt)
    numbers = [_whole(definition.get(key)) for key in ("currentPriority", "minRamCount", "maxDiskCount", "maxWalltime")]
    connection.execute(
        "UPDATE jobs SET definition=?, priority=?, memory_mib=?, disk_mib=?, walltime_s=? WHERE id=?",
        (json.dumps(definition), *numbers, job_id),
    )
    _save(connection, record)
    return record


def _next_attempt(connection: sqlite3.Connection, record: Record) -> Record:
    """The record, which names the new job that has been made after it."""

    def build(job_id: int) -> dict[str, Any]:
        return {**record.definition, "PandaID": job_id, "attemptNr": record.attempt + 1}

    made = _insert(connection, record.queue, build, time.time(), record.max_attempt)
    return replace(record, retry=made.id)


def _apply(connection: sqlite3.Connection, change: Change[Any], job_id: int | None = None) -> None:
    if change.record:
        _save(connection, _next_attempt(connection, change.record) if change.again else change.record)
        job_id = change.record.id
    if change.entry:
        entry = change.entry
        connection.execute(
            "INSERT INTO history (job, at, call, state, answer) VALUES (?, ?, ?, ?, ?)",
            (job_id, entry.at, entry.call, entry.state, entry.answer),
        )


def _attempt(definition: Mapping[str, Any]) -> int:
    attempt = definition.get("attemptNr")
    return attempt if isinstance(attempt, int) and not isinstance(attempt, bool) else 0


def _whole(value: object) -> int:
    """A number of a definition as the filters use it: whatever is no number filters nothing."""
    return value if isinstance(value, int) and 0 <= value < 2**62 else 0
