"""Which settings of a pilot its recoverer takes from the journal.

A payload can write to the volume. So the journal says who the pilot was and how patient, and where its credentials
lie; it does not say whom they are sent to. The server is named by the recoverer's own flags, environment or settings
file; or else by the journal, and then nobody gets a credential. What is fetched from or sent to another URL, and
would choose who is trusted with one (queue and storage data, iDDS, the log's cache), is that server's, or is not
taken at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pilot.values.errors import UsageError
from pilot.values.events import events
from pilot.values.settings import Resolved, Settings, resolve

log = events(__name__)

_TOLD = (
    "queue", "heartbeat", "debug_heartbeat", "patience", "lease", "late_answer", "harvester_id", "worker_id", "node",
    "batch_id", "scheduler_id", "pilot_type", "in_pod", "grace", "log_url", "token_origin", "token_client",
    "save_stopped", "checkpoints", "lanes", "stageout_via", "max_output", "connect_limit", "idle_limit", "slow_limit",
    "checkpoint_limit",
)  # fmt: skip
_CREDENTIALS = ("certificate", "token", "token_dir", "token_key", "storage_token", "storage_credentials", "ca")
_SECRETS = ("certificate", "token", "token_dir", "token_key", "storage_token", "storage_credentials")
_URLS = ("queuedata", "storagedata", "logs_write", "logs_read")


def inherited(told: Mapping[str, Any], own: Resolved, work: Path) -> dict[str, Any]:
    """The settings to be taken of those that the journal has ``told``. Raises UsageError.

    ``own`` are those of this command alone, which win.
    """
    taken = {name: told[name] for name in _TOLD if name in told and _is_sound(name, told[name])}
    if told.get("existing_output") == "rename":
        taken["existing_output"] = "rename"
    if own.origins["server"] == "default":
        return {**taken, **_unproven_server(told, own)}
    for name in _CREDENTIALS:
        if name in told and _is_sound(name, told[name]) and not _lies_in(work, told[name]):
            taken[name] = told[name]
    for name in _URLS:
        if name in told and _is_sound(name, told[name]) and _is_at(str(told[name]), own.settings.server):
            taken[name] = told[name]
    return taken


def _unproven_server(told: Mapping[str, Any], own: Resolved) -> dict[str, Any]:
    """The server that only the journal names. Raises UsageError if it would be sent a credential."""
    server = told.get("server", Settings().server)
    if not _is_sound("server", server):
        raise UsageError("the journal names no server: name it with --server")
    if any(getattr(own.settings, name) or told.get(name) for name in _SECRETS):
        raise UsageError(
            f"only the journal says that the server is {server[:200]}, and a payload may have written that: "
            "name the server with --server, or PILOT_SERVER, so that our credentials go nowhere else"
        )
    return {"server": server}


def _is_sound(name: str, value: Any) -> bool:
    """Whether it is a setting at all."""
    try:
        resolve({name: value}, {}, {})
    except (UsageError, RecursionError):
        log.warning("a setting in the journal is none: passed over", name=name)
        return False
    return True


def _lies_in(work: Path, value: Any) -> bool:
    """Whether a path, or one of several, leads to the volume, where a payload could put a file."""
    paths = value if isinstance(value, list | tuple) else [value]
    return any(str(work) in str(one) for one in paths)


def _is_at(url: str, server: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(server)[:2]
