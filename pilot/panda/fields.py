"""The fields of update_job: each in the type, unit and length that the server stores.

A wrong type loses the whole call, an unknown name too, a NUL or an over-long text in some fields makes the
update fail for ever (panda-live-behaviour.md "update_job", corrections A5, A6, B5): so nothing leaves the
pilot that did not pass this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its JSON type, and for a text its greatest length in characters (0: no limit)."""

    kind: type
    limit: int = 0


_TEXT_500 = Field(str, 500)
_MEMORY = Field(float)

FIELDS: dict[str, Field] = {
    "job_id": Field(int),
    "job_status": Field(str),
    "attempt_nr": Field(int),
    "job_sub_status": Field(str, 80),
    "start_time": Field(str, 19),
    "end_time": Field(str, 19),
    "pilot_timing": Field(str, 100),
    "site_name": Field(str),
    "node": Field(str, 128),
    "scheduler_id": Field(str, 128),
    "pilot_id": Field(str, 200),
    "batch_id": Field(str, 80),
    "trans_exit_code": Field(int),
    "pilot_error_code": Field(int),
    "pilot_error_diag": _TEXT_500,
    "exe_error_code": Field(int),
    "exe_error_diag": _TEXT_500,
    "cpu_consumption_time": Field(int),
    "cpu_consumption_unit": Field(str, 128),
    "core_count": Field(int),
    "max_rss": _MEMORY,
    "job_metrics": _TEXT_500,
    "n_input_files": Field(int),
    "job_output_report": Field(str),
    "meta_data": Field(str),
    "pilot_log": Field(str, 1024),
}

_CORE = (
    "job_id",
    "job_status",
    "attempt_nr",
    "pilot_error_code",
    "pilot_error_diag",
    "trans_exit_code",
    "job_output_report",
)


def clean(update: Mapping[str, Any]) -> dict[str, Any]:
    """The update as it may be sent: None left out, NULs stripped, texts cut, numbers in their type.

    Raises KeyError for a name that the server does not know.
    """
    result: dict[str, Any] = {}
    for name, value in update.items():
        field = FIELDS[name]
        if value is None:
            continue
        if field.kind is str:
            text = str(value).replace("\x00", "")
            result[name] = text[: field.limit] if field.limit else text
        else:
            result[name] = int(value)  # an int passes where the server takes int or float
    return result


def core(update: Mapping[str, Any]) -> dict[str, Any]:
    """What must arrive of a final update, when the server refuses the whole of it."""
    return {name: update[name] for name in _CORE if name in update}
