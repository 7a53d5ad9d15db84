"""What has been set for queues: fields that go over those of the queue document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pilot.embedded.database import Database

_SCHEMA = "CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY, fields TEXT NOT NULL);"


class Queues:
    """The fields that were set, by queue."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.add(_SCHEMA)

    def set(self, name: str, fields: Mapping[str, Any]) -> None:
        """Put fields over those of before."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT fields FROM queues WHERE name=?", (name,)).fetchone()
            merged = {**(json.loads(row[0]) if row else {}), **fields}
            connection.execute("INSERT OR REPLACE INTO queues VALUES (?, ?)", (name, json.dumps(merged)))

    def get(self, name: str) -> dict[str, Any] | None:
        """The fields of a queue, None if nothing was set for it."""
        rows = self._database.rows("SELECT fields FROM queues WHERE name=?", (name,))
        return dict(json.loads(rows[0][0])) if rows else None

    def testing(self, name: str) -> bool:
        """Whether a queue is in status test, in which other jobs are given out."""
        return (self.get(name) or {}).get("status") == "test"
