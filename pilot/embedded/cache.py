"""The file server: logs and sandboxes that are put beside the jobs, and checkpoints of hyper-parameter points (12)."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.wire import Envelope, envelope

_MIB = 2**20
_CHECKPOINT_MIB = 500
_OVERWRITES = ".__ow__"


class Cache:
    """Files in one flat directory; what is being received lies beside it in ``incoming``."""

    def __init__(self, root: Path, incoming: Path) -> None:
        shutil.rmtree(incoming, ignore_errors=True)
        for directory in (root, incoming):
            directory.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._incoming = incoming

    def handlers(self) -> dict[str, Handler]:
        """The calls by their names."""
        return {
            "file_server/upload_cache_file": self._upload,
            "file_server/upload_hpo_checkpoint": self._upload_checkpoint,
            "file_server/delete_hpo_checkpoint": self._delete_checkpoint,
        }

    def path(self, name: str) -> Path | None:
        """Where a file lies, None if there is none of this name."""
        path = self._root / name
        return path if _is_name(name) and path.is_file() else None

    def _upload(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        name = _name(asked["file"].filename)
        complaint = _too_large(visit.request.length, _limit_mib(name))
        if complaint or not _is_name(name):
            return envelope(success=False, message=complaint or "ERROR: invalid file name")
        if not self._keep(asked["file"], name, overwrite=name.endswith(_OVERWRITES)):
            return envelope(success=False, message="ERROR: cannot overwrite file")
        return envelope(success=True)

    def _upload_checkpoint(self, asked: Mapping[str, Any], visit: Visit) -> Envelope:
        name = _name(asked["file"].filename)
        complaint = _too_large(visit.request.length, _CHECKPOINT_MIB)
        if complaint or not re.fullmatch(r"[^_]+_[^_]+", name):
            return envelope(success=False, message=complaint or f"ERROR: {name} is not <task>_<point>")
        self._keep(asked["file"], _checkpoint(name), overwrite=True)
        return envelope(success=True)

    def _delete_checkpoint(self, asked: Mapping[str, Any], _visit: Visit) -> Envelope:
        name = _checkpoint(f"{asked['task_id']}_{asked['sub_id']}")
        if not _is_name(name):
            return envelope(success=False, message="ERROR: invalid file name")
        (self._root / name).unlink(missing_ok=True)
        return envelope(success=True)

    def _keep(self, file: Any, name: str, *, overwrite: bool) -> bool:
        """Store an upload whole; False if there is such a file and it must stay."""
        temporary = self._incoming / secrets.token_hex(16)
        try:
            file.save(temporary)
            if overwrite:
                temporary.replace(self._root / name)
            else:
                os.link(temporary, self._root / name)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True


def _name(told: str | None) -> str:
    return (told or "").rpartition("/")[2]


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[\w.@:+-]{1,200}", name) is not None and name not in (".", "..")


def _checkpoint(name: str) -> str:
    return f"hpo_cp_{name}"


def _limit_mib(name: str) -> int:
    if name.endswith(".out"):
        return 100
    return 768 if name.startswith("sources.") else 10


def _too_large(length: int, limit_mib: int) -> str:
    """The complaint about a whole request's size, which is counted in whole MiB (A16)."""
    size_mib = length // _MIB
    return f"ERROR: upload failure. Exceeded size limit {size_mib} MB > {limit_mib} MB." if size_mib > limit_mib else ""
