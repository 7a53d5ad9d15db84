"""A file system that is full before long."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int = 4) -> Iterator[Path]:
    """Mount one over a directory, for everybody to write to, where the system lets us; else the test is skipped."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0777", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        # an ordinary user has no such right on any machine, so that only root's CI has something to answer for
        expected = os.environ.get("CI") == "true" and os.geteuid() == 0
        (pytest.fail if expected else pytest.skip)("no right to mount a small file system here")
    try:
        yield folder
    finally:
        # lazily: a server that holds a file open there must not keep the mount
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
