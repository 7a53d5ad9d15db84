"""Workers, their nodes and GPUs, and the resource types: what pilots tell and ask about machines (sections 9, 10)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pilot.embedded.database import Database
from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.wire import BUSY_NODE, Envelope, envelope

_SCHEMA = "CREATE TABLE IF NOT EXISTS machines (kind TEXT, key TEXT, told TEXT, PRIMARY KEY (kind, key));"
_LIMIT = 128
_TOO_LONG = f"value too long for type character varying({_LIMIT})"
_FIRST_REPORT = ("vram", "architecture", "driver_version")

_TYPES = (
    ("SCORE", 1, 1, None, 2000),
    ("MCORE", 2, None, None, 2000),
    ("SCORE_HIMEM", 1, 1, 2001, None),
    ("MCORE_HIMEM", 2, None, 2001, None),
)
_TYPE_KEYS = ("resource_name", "mincore", "maxcore", "minrampercore", "maxrampercore")


class Nodes:
    """What has been told of workers, nodes and GPUs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.add(_SCHEMA)

    def handlers(self) -> dict[str, Handler]:
        """The calls by their names."""
        return {
            "pilot/update_worker_status": self._worker,
            "pilot/update_worker_node": self._node,
            "pilot/update_worker_node_gpu": self._gpu,
            "metaconfig/get_resource_types": _resource_types,
            "system/is_alive": lambda _asked, _visit: envelope(success=True),
        }

    def list(self) -> dict[str, list[dict[str, Any]]]:
        """Everything that has been told, by kind."""
        rows = self._database.rows("SELECT kind, told FROM machines ORDER BY kind, key")
        return {kind: [json.loads(told) for one, told in rows if one == kind] for kind in ("workers", "nodes", "gpus")}

    def any_gpus(self) -> bool:
        """Whether some node has told of a GPU."""
        return bool(self._database.rows("SELECT 1 FROM machines WHERE kind='gpus' LIMIT 1"))

    def _worker(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        if asked["status"] not in ("started", "finished"):
            words = "Invalid worker state. The worker state has to be in ('started', 'finished')"
            return envelope(success=False, message=words)
        if not str(asked["worker_id"]).isdigit():
            return envelope(success=False, message="Failed to update worker status")
        self._keep("workers", (str(asked["harvester_id"]), str(asked["worker_id"])), asked)
        return envelope(success=True)

    def _node(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        """Always the same words: so does the live server, also when it only noted that the node is still there."""
        if _long(asked, "site", "host_name", "cpu_model"):
            return envelope(success=True, message=BUSY_NODE)
        if _long(asked, "panda_queue"):
            return envelope(success=False, message=_TOO_LONG)
        key = (asked["site"], _host(asked), asked["cpu_model"])
        if not self._known("nodes", key):
            self._keep("nodes", key, {**asked, "host_name": _host(asked)})
        return envelope(success=True, message="Inserted new worker node.")

    def _gpu(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        if _long(asked, *(name for name, value in asked.items() if isinstance(value, str))):
            return envelope(success=False, message=_TOO_LONG)
        key = (asked["site"], _host(asked), asked["vendor"], asked["model"])
        known = self._known("gpus", key)
        first = {name: known[name] for name in _FIRST_REPORT} if known else {}
        self._keep("gpus", key, {**asked, "host_name": _host(asked), **first})
        message = "Updated existing worker node GPU." if known else "Inserted new worker node GPU."
        return envelope(success=True, message=message)

    def _known(self, kind: str, key: tuple[str, ...]) -> dict[str, Any]:
        rows = self._database.rows("SELECT told FROM machines WHERE kind=? AND key=?", (kind, json.dumps(key)))
        return dict(json.loads(rows[0][0])) if rows else {}

    def _keep(self, kind: str, key: tuple[str, ...], told: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in told.items() if name != "timeout"}
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO machines VALUES (?, ?, ?)", (kind, json.dumps(key), json.dumps(kept))
            )


def _host(asked: Mapping[str, Any]) -> str:
    """The host without the slot before it."""
    return str(asked["host_name"]).rpartition("@")[2]


def _long(asked: Mapping[str, Any], *names: str) -> bool:
    return any(len(asked[name] or "") > _LIMIT for name in names)


def _resource_types(_asked: Mapping[str, Any], _visit: Visit) -> Envelope:
    return envelope(success=True, data=[dict(zip(_TYPE_KEYS, one, strict=True)) for one in _TYPES])
