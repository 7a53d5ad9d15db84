"""The duties beside the jobs, where a payload has put something else in the place of their files."""

import gzip
import os
import random

import pytest

from pilot.panda.upkeep import LogCache, SignOfLife, UploadLog, UploadWholeLog
from pilot.values.redaction import Redactor
from tests.fault.clock import JumpingClock


class Uploads:
    """Stands for the client and its wire: keeps what it was given."""

    redactor = Redactor()

    def __init__(self):
        self.wire = self
        self.contents = []

    def upload(self, _url, _name, content):
        self.contents.append(gzip.decompress(content))
        return {"success": True, "data": None}


ODD = {
    "FIFO": os.mkfifo,
    "link": lambda file: file.symlink_to(file.parent / "target"),
    "hard link": lambda file: file.hardlink_to(file.parent / "target"),
    "directory": lambda file: file.mkdir(),
    "nothing": lambda _file: None,
}


@pytest.fixture(params=ODD, ids=ODD.keys())
def file(request, tmp_path):
    """What has the name of one of our files."""
    (tmp_path / "target").write_text("a secret")
    os.utime(tmp_path / "target", (0, 0))
    ODD[request.param](tmp_path / "file")
    return tmp_path / "file"


def test_the_sign_of_life_waits_for_nothing_and_touches_no_file_of_others(file):
    duty = SignOfLife(JumpingClock(), random.Random(1), file, 60)
    duty.attempt(Uploads(), lambda _message: None)
    assert duty.due == 1060
    assert (file.parent / "target").stat().st_mtime == 0
    assert file.is_dir() or (file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1)


@pytest.mark.parametrize("make", [lambda *a: UploadLog(*a, 60), UploadWholeLog], ids=["pieces", "whole"])
def test_the_logs_upload_waits_for_nothing_and_sends_no_file_of_others(file, make):
    uploads = Uploads()
    duty = make(JumpingClock(), random.Random(1), file, LogCache("http://h/", "stem"))
    duty.attempt(uploads, lambda _message: None)
    assert not any(b"secret" in one for one in uploads.contents)
