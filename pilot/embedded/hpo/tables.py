"""What is kept of studies and their points, in the tables of the server's database."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilot.embedded.events import EventTable
from pilot.embedded.hpo import grid
from pilot.embedded.hpo.trial import Trial
from pilot.values.study import Study, parse_study

SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    request INTEGER PRIMARY KEY AUTOINCREMENT,
    task INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    study TEXT NOT NULL,
    archive TEXT NOT NULL,
    inputs TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS points (
    task INTEGER NOT NULL,
    id INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    parameters TEXT NOT NULL,
    loss TEXT,
    state TEXT NOT NULL DEFAULT 'waiting',
    began REAL,
    ended REAL,
    PRIMARY KEY (task, id)
);
CREATE TABLE IF NOT EXISTS losses (
    task INTEGER NOT NULL, id INTEGER NOT NULL, at REAL NOT NULL, loss TEXT NOT NULL, job INTEGER
);
CREATE INDEX IF NOT EXISTS losses_by_task ON losses (task);
CREATE TABLE IF NOT EXISTS progress (
    task INTEGER NOT NULL, id INTEGER NOT NULL, step INTEGER NOT NULL, loss REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (task, id, step)
);
CREATE TABLE IF NOT EXISTS progress_keys (task INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
"""

Query = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A study as it was submitted. ``inputs`` are objects with name, url, size, checksum."""

    task: int
    request: int
    queue: str
    study: Study
    archive: str
    inputs: Sequence[Mapping[str, Any]]
    generation: int = 0

    @property
    def segments(self) -> range:
        """The numbers of its segments; one of a study without."""
        return range(max(1, len(self.study.segments)))

    def share(self, segment: int) -> int:
        """How many points a segment will have; a grid may have fewer than were asked for."""
        most = self.study.max_points
        return min(most, grid.size(self.study, segment)) if self.study.steering.builtin == "grid" else most

    @property
    def most_points(self) -> int:
        """How many points there will be in all."""
        return sum(map(self.share, self.segments))


@dataclass(frozen=True, slots=True)
class Row:
    """A point as it is kept; ``loss`` may be NaN, which somebody has told."""

    id: int
    segment: int
    parameters: Any
    loss: float | None
    state: str
    began: float | None
    ended: float | None


def kept(query: Query, where: str = "", values: Sequence[object] = ()) -> list[Kept]:
    """Studies, by a condition in SQL."""
    columns = "task, request, queue, study, archive, inputs, generation"
    found = query(f"SELECT {columns} FROM studies {where} ORDER BY task", values)  # noqa: S608 - conditions of ours
    return [
        Kept(task, request, queue, parse_study(json.loads(study)), archive, json.loads(inputs), generation)
        for task, request, queue, study, archive, inputs, generation in found
    ]


def rows(query: Query, task: int) -> list[Row]:
    """The points of a task, in the order in which they were made."""
    columns = "id, segment, parameters, loss, state, began, ended"
    found = query(f"SELECT {columns} FROM points WHERE task=? ORDER BY id", (task,))  # noqa: S608
    return [
        Row(point, segment, json.loads(parameters), None if loss is None else float(loss), state, began, ended)
        for point, segment, parameters, loss, state, began, ended in found
    ]


def query_of(connection: sqlite3.Connection) -> Query:
    """Queries inside a transaction."""
    return lambda query, values: connection.execute(query, values).fetchall()


def next_task(connection: sqlite3.Connection) -> int:
    """A number that no study has."""
    return int(connection.execute("SELECT coalesce(max(task), 0) FROM studies").fetchone()[0]) + 1


def begin(connection: sqlite3.Connection, study: Kept) -> None:
    """The points that a study file brings: with their losses they are known from the start, without they come first."""
    for number, (segment, parameters, loss) in enumerate(study.study.initial_points, start=1):
        insert(connection, study, number, segment, parameters)
        if loss is not None:
            tell(connection, study.task, number, loss, "evaluated")
        else:
            EventTable.add_point(connection, study.task, number, segment, study.study.attempts)


def insert(
    connection: sqlite3.Connection, study: Kept, point: int, segment: int, parameters: Mapping[str, Any]
) -> None:
    """Keep a new point."""
    shown: Any = [segment, parameters] if study.study.segments else parameters
    connection.execute(
        "INSERT INTO points (task, id, segment, parameters) VALUES (?, ?, ?, ?)",
        (study.task, point, segment, json.dumps(shown)),
    )


def tell(connection: sqlite3.Connection, task: int, point: int, loss: float, state: str) -> None:
    """Keep a loss, and who has the point now."""
    now = time.time()
    holder = "SELECT job FROM ranges WHERE jobset=0 AND task=? AND process=? AND status='sent'"
    connection.execute(
        f"INSERT INTO losses VALUES (?, ?, ?, ?, ({holder}))",  # noqa: S608 - no input in it
        (task, point, now, repr(loss), task, point),
    )
    connection.execute(
        "UPDATE points SET loss=?, state=?, ended=? WHERE task=? AND id=?", (repr(loss), state, now, task, point)
    )


def steps(query: Query, task: int) -> dict[int, dict[int, float]]:
    """Intermediate losses, by point and step."""
    found: dict[int, dict[int, float]] = {}
    for point, step, loss in query("SELECT id, step, loss FROM progress WHERE task=?", (task,)):
        found.setdefault(point, {})[step] = loss
    return found


def trial(study: Kept, row: Row, seen: Mapping[int, Mapping[int, float]]) -> Trial:
    """A point as samplers and pruners see it."""
    parameters = row.parameters[1] if study.study.segments else row.parameters
    return Trial(parameters, row.loss, row.state == "pruned", seen.get(row.id, {}))
