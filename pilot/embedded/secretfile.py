"""Files that hold a secret."""

from __future__ import annotations

import os
from pathlib import Path


def write_secret(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file, whole or not at all, that only its owner reads unless ``mode`` lets others too.

    Whatever had its name before, a link for example, is replaced and not followed. Raises OSError.
    """
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(content)
    beside.replace(path)
