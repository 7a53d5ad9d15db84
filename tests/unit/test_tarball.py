"""The log tarball: a large log keeps its two ends, and is never held in memory."""

import os
import tarfile
import tracemalloc

from pilot.runner.area import JobArea
from pilot.runner.tarball import pack
from pilot.values.events import Redactor


def test_a_large_log_keeps_its_two_ends_and_takes_no_memory(tmp_path):
    with JobArea(tmp_path / "job").made() as area, (tmp_path / "log.tgz").open("wb") as target:
        area.stdout.append(b"first words\n")
        os.ftruncate(area.stdout.fileno(), 64 << 20)
        area.stdout.append(b"last words\n")
        tracemalloc.start()
        pack(area, target, "folder", Redactor(), most_bytes=32 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20
    with tarfile.open(tmp_path / "log.tgz") as tar:
        content = tar.extractfile("folder/payload.stdout").read()
    assert content.startswith(b"first words\n")
    assert content.endswith(b"last words\n")
    assert b"bytes left out here" in content
    assert 32 << 20 <= len(content) < (32 << 20) + 100


def test_a_secret_that_is_cut_with_a_large_log_leaves_no_part_of_it(tmp_path):
    secret, redactor = "a-secret-of-many-characters" * 3, Redactor()
    redactor.learn(secret)
    with JobArea(tmp_path / "job").made() as area, (tmp_path / "log.tgz").open("wb") as target:
        area.stdout.append(b"x" * 980 + secret.encode() + b"y" * 1000 + secret.encode() + b"z" * 980)
        pack(area, target, "folder", redactor, most_bytes=2000)
    with tarfile.open(tmp_path / "log.tgz") as tar:
        content = tar.extractfile("folder/payload.stdout").read()
    assert content.startswith(b"x" * 980 + b"*" * 20 + b"\n\n[")
    assert content.endswith(b"]\n\n" + b"*" * 20 + b"z" * 980)
