"""What an evaluation says of a point is read from its own directory only; and `pilot try` cleans up after anything."""

import os
import subprocess
import sys

import pytest

from pilot.files.folder import Folder
from pilot.files.kept import KeptFile
from pilot.runner.hpo.verdict import Kind, judge, left_behind
from pilot.values.hpo import PointWork
from pilot.values.names import Lfn
from pilot.values.outcome import PayloadEnd

ASKED = PointWork(1, "", Lfn("input.json"), Lfn("output.json"), Lfn("meta.json"))
ANSWER = '{"loss": 0.5, "token": "of somebody else"}'


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def verdict(work, tmp_path):
    with (tmp_path / "stderr").open("w+b") as file:
        yield lambda: judge(lambda: Folder.at(work), ASKED, PayloadEnd(0), KeptFile(os.dup(file.fileno())))


def test_an_answer_outside_of_its_directory_is_none(work, verdict, tmp_path):
    (tmp_path / "answer").write_text(ANSWER)
    for link in (tmp_path / "answer", "../answer", "sub/../../answer"):
        (work / "output.json").unlink(missing_ok=True)
        (work / "output.json").symlink_to(link)
        assert verdict().kind is Kind.FAILED, link
        assert left_behind(work, "output.json") is None


def test_metadata_outside_of_its_directory_is_not_sent(work, verdict, tmp_path):
    (tmp_path / "answer").write_text(ANSWER)
    (work / "output.json").write_text(ANSWER)
    (work / "meta.json").symlink_to(tmp_path / "answer")
    assert verdict().loss == 0.5
    assert not verdict().meta


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "through a link"])
def test_an_answer_that_is_no_file_is_none(work, verdict, kind):
    answer = work / "output.json"
    if kind == "fifo":
        os.mkfifo(answer)
    elif kind == "folder":
        answer.mkdir()
    elif kind == "loop":
        answer.symlink_to("output.json")
    else:
        (work / "sub").symlink_to("/")
        answer.symlink_to("sub/etc/hostname")
    assert verdict().kind is Kind.FAILED


def test_a_link_to_a_file_of_its_own_counts(work, verdict):
    (work / "run").mkdir()
    (work / "run" / "answer").write_text(ANSWER)
    for link in ("run/answer", work / "run" / "answer"):
        (work / "output.json").unlink(missing_ok=True)
        (work / "output.json").symlink_to(link)
        assert verdict().loss == 0.5


def test_try_removes_what_a_payload_leaves_beside_its_own_tree(tmp_path):
    # Given: a payload that leaves a deep and a shut tree in the temporary directory of `pilot try`
    (tmp_path / "leaves.py").write_text(
        "import os\nos.chdir('../../..')\nos.makedirs('shut/a/b')\nos.chmod('shut/a', 0o500)\nos.chmod('shut', 0)\n"
        "for _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
    )
    command = f"{sys.executable} {tmp_path}/leaves.py; echo content > out"
    (tmp_path / "job.yaml").write_text(f"command: {command!r}\noutputs: [out]\n")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    # When
    ended = subprocess.run(
        [sys.executable, "-m", "pilot", "try", "job.yaml", "--out", "out"],
        check=False, cwd=tmp_path, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    # Then
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert [one.name for one in temporary.glob("pilot-try-*")] == []
