"""What is no file is not overwritten by one: as root, that could cost a machine its null device."""

import os
import socket
import stat
import subprocess
import sys

import pytest


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_is_no_file_is_not_overwritten(tmp_path, kind):
    # Given
    (tmp_path / "source").write_text("content")
    target = tmp_path / "target"
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "fifo":
            os.mkfifo(target)
        else:
            bound.bind(os.path.relpath(target))
        before = target.lstat()
        # When
        ended = subprocess.run(
            [sys.executable, "-m", "pilot", "copy", "--overwrite", "source", "target"],
            check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    # Then
    assert ended.returncode == 1
    assert "not overwritten" in ended.stderr
    assert stat.S_IFMT(target.lstat().st_mode) == stat.S_IFMT(before.st_mode)
    assert target.lstat().st_ino == before.st_ino
    assert sorted(one.name for one in tmp_path.iterdir()) == ["source", "target"]
