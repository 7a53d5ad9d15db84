"""What the live server answers while its database is away: it stays up, and every call finds words of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot.embedded.wire import BUSY_NODE, DATABASE_ERROR, NO_JOBS, Envelope, envelope


def answer(module: str, name: str, asked: Mapping[str, Any]) -> Envelope:
    """The answer to a call that would need the database."""
    if name == "update_jobs_bulk":
        return envelope(success=True, data=[_LOST for _ in asked["job_list"]])
    if name == "get_job_status":
        return envelope(success=True, data=[_unknown(job_id) for job_id in asked["job_ids"]])
    return _WORDS.get(name) or envelope(
        success=False, message=DATABASE_ERROR if module == "event" else "Database error"
    )


_LOST = envelope(success=True, message="Database error", data={"StatusCode": 30})
_WORDS = {
    "is_alive": envelope(success=True),
    "acquire_jobs": NO_JOBS,
    "update_job": _LOST,
    "update_worker_status": envelope(success=False, message="Failed to update worker status"),
    "update_worker_node": envelope(success=True, message=BUSY_NODE),
}


def _unknown(job_id: int) -> dict[str, Any]:
    return {"job_id": job_id, "status": "unknown", "attempt_number": "NULL"}
