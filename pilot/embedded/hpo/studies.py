"""Studies and their points: who gets which, what was told of them. All of it is durable before it is answered."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pilot.embedded.database import Database
from pilot.embedded.events import EventTable
from pilot.embedded.hpo import grid, tables
from pilot.embedded.hpo.pruning import should_prune
from pilot.embedded.hpo.tables import Kept, Row
from pilot.embedded.jobs import Record
from pilot.values.hpo import PENALTY
from pilot.values.study import Study, parse_study


class Studies:
    """All studies of a server."""

    def __init__(self, database: Database, events: EventTable) -> None:
        self._database = database
        self._events = events
        self._making = threading.Lock()
        database.add(tables.SCHEMA)

    # --- studies ------------------------------------------------------------------------------------

    def submit(self, study: Study, queue: str, archive: str, inputs: Sequence[Mapping[str, Any]]) -> int:
        """Keep a study; its task. Of one that is there already only the number of points may grow.

        Raises ValueError.
        """
        if study.steering.builtin != "grid":
            _load_optuna()
        kept = Kept(study.task_id or 0, 0, queue, study, archive, inputs)
        with self._database.transaction() as connection:
            found = connection.execute("SELECT task, study FROM studies WHERE name=?", (study.study,)).fetchone()
            if found is None:
                return _insert(connection, kept)
            _check_same(parse_study(json.loads(found[1])), study)
            connection.execute(
                "UPDATE studies SET study=?, archive=?, inputs=? WHERE task=?",
                (json.dumps(study.as_json()), archive, json.dumps(list(inputs)), found[0]),
            )
            return int(found[0])

    def all(self, queue: str | None = None) -> list[Kept]:
        """All studies, or those of a queue, by their tasks."""
        if queue is None:
            return tables.kept(self._database.rows)
        return tables.kept(self._database.rows, "WHERE queue=?", (queue,))

    def find(self, task: int) -> Kept | None:
        """The study of a task."""
        return next(iter(tables.kept(self._database.rows, "WHERE task=?", (task,))), None)

    def tasks_of(self, workload: int | None, request: int | None) -> list[int]:
        """The tasks that iDDS means by a pair of numbers, of which one may be missing; all without both."""
        rows = self._database.rows("SELECT task, request FROM studies ORDER BY request")
        return [task for task, own in rows if workload in (None, task) and request in (None, own)]

    # --- points -------------------------------------------------------------------------------------

    def points(self, task: int) -> list[Row]:
        """The points of a task, in the order in which they were made; what ended jobs had is taken back first."""
        self._penalise(task)
        return tables.rows(self._database.rows, task)

    def losses(self, task: int) -> dict[int, list[dict[str, Any]]]:
        """Everything that was told, by point, in order."""
        found: dict[int, list[dict[str, Any]]] = {}
        query = "SELECT id, at, loss, job FROM losses WHERE task=? ORDER BY rowid"
        for point, at, loss, job in self._database.rows(query, (task,)):
            found.setdefault(point, []).append({"time": at, "loss": float(loss), "job": job})
        return found

    def progress(self, task: int) -> dict[int, list[dict[str, Any]]]:
        """Intermediate losses, by point and step."""
        found: dict[int, list[dict[str, Any]]] = {}
        query = "SELECT id, step, loss, at FROM progress WHERE task=? ORDER BY id, step"
        for point, step, loss, at in self._database.rows(query, (task,)):
            found.setdefault(point, []).append({"step": step, "loss": loss, "time": at})
        return found

    def key(self, task: int) -> str:
        """What the jobs of a task report intermediate losses under; nobody else knows it."""
        with self._database.transaction() as connection:
            fresh = (task, secrets.token_urlsafe(16))
            connection.execute("INSERT OR IGNORE INTO progress_keys VALUES (?, ?)", fresh)
            return str(connection.execute("SELECT key FROM progress_keys WHERE task=?", (task,)).fetchone()[0])

    def task_of_key(self, key: str) -> int | None:
        """The task that a key belongs to."""
        rows = self._database.rows("SELECT task FROM progress_keys WHERE key=?", (key,))
        return int(rows[0][0]) if rows else None

    def tell(self, task: int, point: int, loss: float) -> bool:
        """Register a loss, over one that was there; whether there is such a point."""
        with self._database.transaction() as connection:
            state = connection.execute("SELECT state FROM points WHERE task=? AND id=?", (task, point)).fetchone()
            if state is None:
                return False
            tables.tell(connection, task, point, loss, "pruned" if state[0] == "pruned" else "evaluated")
        return True

    def report(self, task: int, point: int, steps: Mapping[int, float]) -> bool | None:
        """Keep intermediate losses; whether the point is to be given up. None: there is no such point."""
        kept = self.find(task)
        with self._database.transaction() as connection:
            rows = tables.rows(tables.query_of(connection), task)
            own = next((row for row in rows if row.id == point), None)
            if kept is None or own is None:
                return None
            connection.executemany(
                "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)",
                [(task, point, step, loss, time.time()) for step, loss in steps.items()],
            )
            if own.loss is not None or kept.study.pruner.kind == "none":
                return False
            if own.state == "pruned":
                return True
            seen = tables.steps(tables.query_of(connection), task)
            others = [tables.trial(kept, row, seen) for row in rows if row.id != point and row.segment == own.segment]
            pruned = should_prune(kept.study.pruner, others, tables.trial(kept, own, seen))
            if pruned:
                connection.execute("UPDATE points SET state='pruned' WHERE task=? AND id=?", (task, point))
        return pruned

    def is_complete(self, kept: Kept) -> bool:
        """Whether there are all points, with their losses."""
        query = "SELECT count(*), count(loss) FROM points WHERE task=?"
        return self._database.rows(query, (kept.task,)) == [(kept.most_points, kept.most_points)]

    # --- who gets which -----------------------------------------------------------------------------

    def hand_out(self, record: Record, task: int, count: int, segment: int | None) -> list[dict[str, Any]]:
        """Events for a job, of one ``segment`` or of all; points are made first, where they may be."""
        with self._making:  # or one job takes what was made for another, which then goes away
            self._supply(task, count, segment)
            given = self._events.acquire(record, 0, task, count, segment)
        with self._database.transaction() as connection:
            # a point that was pruned in a life which could not tell its loss begins anew
            connection.executemany(
                "UPDATE points SET began=?, state='waiting' WHERE task=? AND id=? AND loss IS NULL",
                [(time.time(), task, one["startEvent"]) for one in given],
            )
        return given

    def makeable(self, kept: Kept, rows: Sequence[Row], segment: int) -> int:
        """How many points of a segment could be made now (hpo-contract.md 10.9)."""
        own = [row for row in rows if row.segment == segment]
        room = max(0, kept.share(segment) - len(own))
        if not kept.study.points_per_iteration:
            return room
        unevaluated = sum(row.loss is None for row in own)
        if unevaluated > kept.study.min_unevaluated_points:
            return 0
        return min(room, kept.study.points_per_iteration - unevaluated)

    def _supply(self, task: int, wanted: int, segment: int | None) -> None:
        """Make points: as many as are wanted and not there, or a generation where it is time for one."""
        kept = self.find(task)
        if kept is None or (segment is not None and segment not in kept.segments):
            return
        rows = self.points(task)
        for one in kept.segments if segment is None else (segment,):
            ready = self._events.count_ready(task, one)
            may = self.makeable(kept, rows, one)
            count = may if kept.study.points_per_iteration else min(may, wanted - ready)
            if count > 0:
                self._make(kept, one, [row for row in rows if row.segment == one], count)
            wanted = max(0, wanted - ready - max(0, count))

    def _make(self, kept: Kept, segment: int, rows: Sequence[Row], count: int) -> None:
        """New points of a segment, and their events. The optimiser takes its time, so that is no transaction."""
        seen = tables.steps(self._database.rows, kept.task)
        trials = [tables.trial(kept, row, seen) for row in rows]
        if kept.study.steering.builtin == "grid":
            made = grid.suggest(kept.study, [one.parameters for one in trials], count)
        else:
            made = _load_optuna().suggest(kept.study, trials, count, segment)
        with self._database.transaction() as connection:
            query = "SELECT coalesce(max(id), 0) FROM points WHERE task=?"
            last = connection.execute(query, (kept.task,)).fetchone()[0]
            for number, parameters in enumerate(made, start=last + 1):
                tables.insert(connection, kept, number, segment, parameters)
                self._events.add_point(connection, kept.task, number, segment, kept.study.attempts)
            connection.execute("UPDATE studies SET generation=generation+1 WHERE task=?", (kept.task,))

    def _penalise(self, task: int) -> None:
        """Points whose last attempt has failed get the penalty, as the server gives it (hpo-contract.md 3.1)."""
        with self._database.transaction() as connection:
            for point in self._events.exhausted(connection, task):
                row = connection.execute("SELECT loss FROM points WHERE task=? AND id=?", (task, point)).fetchone()
                if row is not None and row[0] is None:
                    tables.tell(connection, task, point, PENALTY, "penalised")


def _insert(connection: sqlite3.Connection, kept: Kept) -> int:
    kept = replace(kept, task=kept.task or tables.next_task(connection))
    try:
        connection.execute(
            "INSERT INTO studies (task, name, queue, study, archive, inputs) VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(kept.task, kept.study.study, kept.queue, json.dumps(kept.study.as_json())),
                *(kept.archive, json.dumps(list(kept.inputs))),
            ),
        )
    except sqlite3.IntegrityError:
        raise ValueError(f"task_id: there is a study with task {kept.task} already") from None
    tables.begin(connection, kept)
    return kept.task


def _check_same(before: Study, study: Study) -> None:
    if replace(before, max_points=study.max_points) != study:
        raise ValueError(f"study: another study is named {study.study}: choose another name, or another data directory")
    if study.max_points < before.max_points:
        raise ValueError(f"max_points: the study has {before.max_points} already, and can only grow")


def _load_optuna() -> Any:
    """The module that needs Optuna. Raises ValueError where that is not installed."""
    try:
        from pilot.embedded.hpo import optimiser  # noqa: PLC0415 - slow, and seldom needed
    except ImportError as error:
        raise ValueError(f"steering: needs more packages: pip install 'panda-pod-pilot[embedded]' ({error})") from None
    return optimiser
