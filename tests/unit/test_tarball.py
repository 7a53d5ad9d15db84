"""The log tarball: a large log keeps its two ends, and is never held in memory."""

import tarfile
import tracemalloc

from pilot.runner.area import JobArea
from pilot.runner.tarball import pack


def test_a_large_log_keeps_its_two_ends_and_takes_no_memory(tmp_path):
    area = JobArea(tmp_path / "job")
    area.make()
    with area.stdout.open("wb") as file:
        file.write(b"first words\n")
        file.truncate(64 << 20)
        file.seek(0, 2)
        file.write(b"last words\n")
    tracemalloc.start()
    pack(area, tmp_path / "log.tgz", "folder", most_bytes=32 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    with tarfile.open(tmp_path / "log.tgz") as tar:
        content = tar.extractfile("folder/payload.stdout").read()
    assert content.startswith(b"first words\n")
    assert content.endswith(b"last words\n")
    assert b"bytes left out here" in content
    assert 32 << 20 <= len(content) < (32 << 20) + 100
