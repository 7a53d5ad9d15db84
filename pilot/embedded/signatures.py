"""The signatures of the PanDA calls, checked with the live server's own strictness and words.

The order of checks and all texts are those of panda-protocol.md 1.4, seen again on the live server.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NEEDED = inspect.Parameter.empty
Kind = tuple[type, ...]
"""The types that a field accepts; none: anything, two: a union, which the server cannot put into words."""

_ANY: Kind = ()
_INT: Kind = (int,)
_STR: Kind = (str,)
_BOOL: Kind = (bool,)
_LIST: Kind = (list,)
_NUMBER: Kind = (int, float)
_OBJECT_OR_TEXT: Kind = (dict, str)


class Refused(Exception):
    """The arguments do not fit; the text is the answer's message."""


class Crashed(Exception):
    """The live server crashes on these arguments; the text is the body of its HTTP 500."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API: its module, its HTTP method, and its fields in order with type and default."""

    module: str
    name: str
    method: str
    fields: Mapping[str, tuple[Kind, Any]]

    def check(self, method: str, sent: object) -> dict[str, Any]:
        """The arguments with all defaults filled in; raises Refused or Crashed."""
        if method != self.method:
            raise Refused(f"expecting {self.method}, received {method}")
        arguments = self._bind(sent)
        if method == "GET":
            arguments = {name: _cast(name, self.fields[name][0], value) for name, value in arguments.items()}
        for name, value in arguments.items():
            kind, default = self.fields[name]
            _check_type(name, kind, default, value)
        return {**{name: default for name, (_, default) in self.fields.items()}, **arguments}

    def _bind(self, sent: object) -> dict[str, Any]:
        if not isinstance(sent, dict):
            where = f"pandaserver.api.v1.{self.module}_api.{self.name}()"
            raise Crashed(f"{where} argument after ** must be a mapping, not {type(sent).__name__}")
        try:
            return self._signature().bind(**sent).arguments
        except TypeError as error:
            raise Refused(f"Argument error: {error}") from None

    def _signature(self) -> inspect.Signature:
        return inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
                for name, (_, default) in self.fields.items()
            ]
        )


def _check_type(name: str, kind: Kind, default: object, value: object) -> None:
    """Raise what the server raises for a value of the wrong type; one equal to the default always passes."""
    if not kind or value == default or isinstance(value, kind):
        return
    if len(kind) > 1:
        raise Crashed("'types.UnionType' object has no attribute '__name__'")
    raise Refused(f"Type error: '{name}' must be of type {_word(kind)}, got {type(value).__name__}.")


def _word(kind: Kind) -> str:
    return "List" if kind == _LIST else kind[0].__name__


def _cast(name: str, kind: Kind, value: Any) -> Any:
    """A value of a query string as the field's type."""
    if kind == _LIST and not isinstance(value, list):
        value = [value]
    try:
        if value == "None":
            return None
        if kind == _LIST:
            return [int(one) for one in value]
        if kind == _INT:
            return int(float(value))
    except (TypeError, ValueError):
        got = type(value).__name__
        text = f"Type error: '{name}' with value '{value}' could not be casted to type {_word(kind)} from {got}."
        raise Refused(text) from None
    return value


def _fields(
    needed: Mapping[str, Kind], optional: Mapping[str, Kind], **defaults: object
) -> dict[str, tuple[Kind, Any]]:
    told: dict[str, tuple[Kind, Any]] = {name: (kind, _NEEDED) for name, kind in needed.items()}
    return told | {name: (kind, defaults.get(name)) for name, kind in optional.items()}


_ACQUIRE = _fields(
    {"site_name": _STR},
    {
        "timeout": _INT,
        "memory": _INT,
        "disk_space": _INT,
        "prod_source_label": _STR,
        "node": _STR,
        "computing_element": _STR,
        "prod_user_id": _STR,
        "get_proxy_key": _STR,
        "task_id": _INT,
        "n_jobs": _INT,
        "background": _BOOL,
        "resource_type": _STR,
        "harvester_id": _STR,
        "worker_id": _INT,
        "scheduler_id": _STR,
        "job_type": _STR,
        "via_topic": _BOOL,
        "remaining_time": _ANY,
        "target_architecture": _OBJECT_OR_TEXT,
    },
    timeout=60,
    n_jobs=1,
)

_UPDATE = _fields(
    {"job_id": _INT, "job_status": _STR},
    {
        "job_sub_status": _STR,
        "start_time": _STR,
        "end_time": _STR,
        "pilot_timing": _STR,
        "site_name": _STR,
        "node": _STR,
        "scheduler_id": _STR,
        "pilot_id": _STR,
        "batch_id": _STR,
        "trans_exit_code": _INT,
        "pilot_error_code": _INT,
        "pilot_error_diag": _STR,
        "exe_error_code": _INT,
        "exe_error_diag": _STR,
        "n_events": _INT,
        "n_input_files": _INT,
        "attempt_nr": _INT,
        "cpu_consumption_time": _INT,
        "cpu_consumption_unit": _STR,
        "cpu_conversion_factor": _NUMBER,
        "cpu_architecture_level": _STR,
        "core_count": _INT,
        "mean_core_count": _INT,
        **{f"{kind}_{what}": _NUMBER for kind in ("max", "avg") for what in ("rss", "vmem", "swap", "pss")},
        **{f"{kind}_{what}": _NUMBER for kind in ("tot", "rate") for what in ("rchar", "wchar", "rbytes", "wbytes")},
        "job_metrics": _STR,
        "job_output_report": _STR,
        "meta_data": _STR,
        "pilot_log": _STR,
        "stdout": _STR,
        "corrupted_files": _STR,
        "grid": _STR,
        "source_site": _STR,
        "destination_site": _STR,
        "timeout": _INT,
    },
    job_output_report="",
    meta_data="",
    pilot_log="",
    stdout="",
    timeout=60,
)

_WORKER = _fields(
    {"worker_id": _ANY, "harvester_id": _ANY, "status": _ANY}, {"timeout": _ANY, "node_id": _ANY}, timeout=60
)

CALLS = {
    (call.module, call.name): call
    for call in (
        Call("pilot", "acquire_jobs", "POST", _ACQUIRE),
        Call("pilot", "update_job", "POST", _UPDATE),
        Call("pilot", "get_job_status", "GET", _fields({"job_ids": _LIST}, {"timeout": _INT}, timeout=60)),
        Call("pilot", "update_worker_status", "POST", _WORKER),
        Call("system", "is_alive", "GET", {}),
        Call(
            "job",
            "kill",
            "POST",
            _fields({"job_ids": _LIST}, {"code": _INT, "kill_options": _LIST, "timeout": _INT}, timeout=60),
        ),
        Call("job", "set_command", "POST", _fields({"job_id": _INT, "command": _STR}, {"timeout": _INT}, timeout=60)),
    )
}
"""Every call that this server answers, by module and name."""
