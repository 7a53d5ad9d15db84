"""The journal: whole records or none, one owner, and the story that they tell."""

import json
import os
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.runner.journal import NAME, Busy, Journal, Kind, read
from pilot.runner.past import tell
from pilot.values.errors import JournalBroken, SiteError
from pilot.values.stop import Reason

TAKEN = {
    "job": 7, "attempt": 2, "identity": {"job_id": 7}, "area": "/w/job-7-2-x", "log": None, "inputs": ["in"],
    "outputs": [{"lfn": "out", "guid": None, "may_be_missing": False}], "cores": 3,
}  # fmt: skip


def kinds(folder):
    return [record["kind"] for record in read(folder)]


def test_what_was_written_is_read_by_the_next_life(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.begin(life="a", settings={"queue": "Q"})
        journal.write(Kind.TAKEN, **TAKEN)
        journal.must(Kind.EXITED, exit_code=0, cpu_s=1.5, max_rss_kib=4, seconds=2.0, stopped=False)
    with Journal.open(tmp_path) as journal:
        story = tell(journal.past)
    assert (story.life, story.settings, story.left) == ("a", {"queue": "Q"}, False)
    assert (story.open.job_id, story.open.attempt, story.open.job.outputs[0].lfn) == (7, 2, "out")
    assert (story.open.payload.exit_code, story.open.payload_s, story.open.final) == (0, 2.0, None)


@given(cut=st.integers(0, 10_000))
def test_a_journal_that_is_cut_anywhere_tells_its_whole_records(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("volume")
    with Journal.open(folder) as journal:
        journal.begin(life="a", settings={})
        for number in range(5):
            journal.write(Kind.STORING, files=["x" * number])
    whole = (folder / NAME).read_bytes()
    cut %= len(whole) + 1
    (folder / NAME).write_bytes(whole[:cut])
    with Journal.open(folder) as journal:
        assert len(journal.past) == whole[:cut].count(b"\n")
        journal.write(Kind.LEFT, code=0)
    assert kinds(folder)[-1] == "left"
    assert len(read(folder)) == len(journal.past) + 1


@pytest.mark.parametrize("position", [0, 9, 30])
def test_a_record_that_was_changed_is_none_and_ends_the_story(tmp_path, position):
    with Journal.open(tmp_path) as journal:
        journal.begin(life="a", settings={})
        journal.write(Kind.LEFT, code=0)
    content = bytearray((tmp_path / NAME).read_bytes())
    second = content.index(b"\n") + 1
    content[second + position] ^= 1
    (tmp_path / NAME).write_bytes(content)
    assert kinds(tmp_path) == ["life"]


def test_one_process_at_a_time_has_the_volume_and_death_gives_it_back(tmp_path):
    holder = "import sys\nfrom pathlib import Path\nfrom pilot.runner.journal import Journal\n"
    holder += "j = Journal.open(Path(sys.argv[1]))\nprint('has it', flush=True)\nsys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "has it\n"
    with pytest.raises(Busy, match=f"in use by pilot {child.pid}"):
        Journal.open(tmp_path)
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    Journal.open(tmp_path).close()


def test_a_record_that_must_be_there_and_cannot_is_an_error_and_another_is_not(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.begin(life="a", settings={})
        blocked = os.open(os.devnull, os.O_RDONLY)
        os.dup2(blocked, journal.fileno())
        os.close(blocked)
        journal.write(Kind.STORING, files=[])
        with pytest.raises(JournalBroken, match="cannot be written"):
            journal.must(Kind.STARTING)
    assert kinds(tmp_path) == ["life"]


def test_a_full_disk_is_met_with_the_reserve(tmp_path):
    """On a real, tiny file system: needs a mount namespace of our own."""
    script = f"""
        mount -t tmpfs -o size=2m none {tmp_path} && exec {sys.executable} - {tmp_path} <<'END'
import sys
from pathlib import Path
from pilot.runner.journal import Journal, Kind, RESERVE_NAME
folder = Path(sys.argv[1])
with Journal.open(folder) as journal:
    try:
        with (folder / "full").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    except OSError:
        pass
    for number in range(200):
        journal.must(Kind.STORING, files=["y" * 200])
    assert not (folder / RESERVE_NAME).exists()
print("all written")
END"""
    shell = ["unshare", "-m", "sh", "-c", script] if os.geteuid() == 0 else ["unshare", "-rm", "sh", "-c", script]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert "all written" in done.stdout, done.stderr


def test_a_volume_that_cannot_be_written_is_the_sites_fault(tmp_path):
    with pytest.raises(SiteError, match="cannot be opened"):
        Journal.open(tmp_path / "missing")


def test_a_stop_counts_for_the_job_of_its_own_life_only(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.begin(life="a", settings={})
        journal.write(Kind.TAKEN, **TAKEN)
        journal.begin(life="b", settings={})
        journal.write(Kind.STOP, reason="preempted")
        assert tell(read(tmp_path)).open.stop is None
        journal.write(Kind.TAKEN, **TAKEN)
        journal.write(Kind.STOP, reason="preempted")
        assert tell(read(tmp_path)).open.stop is Reason.PREEMPTED
        journal.write(Kind.ENDED, verdict="stored")
        assert tell(read(tmp_path)).open is None


def test_a_question_that_was_left_open_is_remembered_and_an_answered_one_is_not(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.begin(life="a", settings={})
        journal.write(Kind.ASKING)
        assert tell(read(tmp_path)).asked_at is not None
        journal.write(Kind.NOTHING, lost=1)
        assert tell(read(tmp_path)).asked_at is not None
        journal.write(Kind.NOTHING, lost=0)
        assert tell(read(tmp_path)).asked_at is None


def test_the_journal_of_a_newer_version_can_be_read(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.begin(life="a", settings={}, novelty=1)
        journal.write(Kind.TAKEN, **TAKEN, novelty=2)
    line = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    text = json.dumps({"kind": "quantum", "time": 1}).encode()
    (tmp_path / NAME).write_bytes(b"".join(line) + b"%08x %b\n" % (zlib.crc32(text), text))
    assert tell(read(tmp_path)).open.job_id == 7
