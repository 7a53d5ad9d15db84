"""A temporary directory that payloads have worked in: it goes away whatever they have made of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilot.files.folder import Folder
from pilot.values.deadline import Deadline
from pilot.values.events import events

log = events(__name__)

_REMOVE_S = 120.0


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new directory for the block; what of it cannot be removed afterwards is said, and left."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        try:
            with Folder.at(path.parent) as parent:
                left = parent.remove(path.name, Deadline.after(_REMOVE_S))
        except OSError as error:
            left = str(error)
        if left:
            log.warning("left behind", path=path, why=left)
