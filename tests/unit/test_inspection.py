"""What a look into a running job shows, whatever its payload does with names."""

import os
import subprocess
import sys

import pytest

from pilot.runner.area import JobArea
from pilot.runner.inspection import MOST_BYTES, Inspector

OWN = "../../pilot/job"
OUTSIDE = "not in the work directory"
DEPTH = 3000
DIG = f"""import os
for _ in range({DEPTH}):
    os.mkdir("d")
    os.chdir("d")
print("down here", file=open("bottom", "w"))"""


@pytest.fixture
def area(tmp_path):
    with JobArea(tmp_path / "job").made() as found:
        found.stdout.append(b"out\n")
        found.stderr.append(b"err\n")
        found.log.append(b"log\n")
        yield found
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)  # pytest's own way to remove trees recurses


@pytest.fixture
def inspector(area):
    with Inspector(area) as found:
        yield found


def payload(area, text):
    """What a payload does, in its work directory."""
    subprocess.run(["/bin/sh", "-c", text], cwd=area.work, check=True)


@pytest.mark.parametrize("look", ["tail etc/hostname", "tail etc/passwd", "ls etc", "du etc", "ls", ""])
def test_a_work_directory_that_became_a_link_shows_nothing_of_what_it_leads_to(area, inspector, look):
    payload(area, "echo mine > own; cd ..; mv work w2; ln -s / work")
    shown = inspector.look(look)
    assert "root:" not in shown
    if look.endswith(("hostname", "passwd", "etc")):
        assert "No such file" in shown
    else:
        assert "own" in shown


def test_a_job_directory_that_was_moved_away_is_still_the_one_that_is_shown(area, inspector):
    payload(area, "cd ../..; mv job elsewhere; mkdir -p job/work; echo forged > job/work/f; mv pilot other")
    assert inspector.look("tail payload.stdout") == "out\n"
    assert "No such file" in inspector.look("tail f")


@pytest.mark.parametrize(
    ("text", "look", "answer"),
    [
        (f"rm {OWN}/payload.stdout; ln -s /etc/passwd {OWN}/payload.stdout", "tail payload.stdout", "out"),
        (f"rm {OWN}/payload.stdout; mkfifo {OWN}/payload.stdout", "tail payload.stdout", "out"),
        (f"rm {OWN}/pilot.log; mkdir {OWN}/pilot.log", "tail pilot.log", "log"),
        (f"rm -r {OWN}", "ls pilot.log", " pilot.log"),
        (f"ln {OWN}/pilot.log f", "tail f", "a hard link"),
        ("mkdir a; ln -s /etc a/b", "tail a/b/passwd", OUTSIDE),
        ("ln -s /etc/passwd f", "tail f", OUTSIDE),
        ("ln -s / l", "ls l/etc", OUTSIDE),
        ("ln -s / l", "du l/etc", OUTSIDE),
        ("ln -s /etc l", "du l", "KiB in 1 file"),
        ("mkdir s", "ls s/../../..", OUTSIDE),
        ("touch -d @99999999999999 f 2>/dev/null || touch f", "ls f", " f"),
        ("mkdir m; chmod 000 m", "du", "KiB in"),
        ("printf 'a\\0b\\377c' > f", "tail f", "ab\ufffdc"),
        ("head -c 3000 /dev/zero > f", "tail f", "nothing to show"),
        ('touch "$(printf "a\\nb\\033]0;c")"', "ls", "a\\nb\\x1b]0;c"),
        ("mkdir e", "ls e", "ls e: nothing to show"),
        ("true", "tail none", "No such file"),
    ],
)
def test_whatever_has_the_name_the_look_has_an_answer(area, inspector, text, look, answer):
    payload(area, text)
    assert answer in inspector.look(look)


def test_a_tree_of_any_depth_is_counted_and_its_newest_file_is_shown(area, inspector):
    subprocess.run([sys.executable, "-c", DIG], cwd=area.work, check=True)
    for file in (area.stdout, area.stderr):
        os.utime(file.fileno(), ns=(0, 0))
    assert inspector.look("du").endswith("KiB in 1 files")
    assert inspector.look("").endswith("bottom]\ndown here\n")
    assert inspector.look("tail " + "d/" * DEPTH + "bottom") == "down here\n"
    assert len(inspector.look("").encode()) <= MOST_BYTES


def test_a_newest_file_that_cannot_be_read_gives_way_to_the_next(area, inspector):
    payload(area, f"echo kept > a; ln {OWN}/pilot.log b; touch -d 2100-01-01 b; touch -d 2099-01-01 a")
    assert inspector.look("") == "[work/a]\nkept\n"


def test_a_job_without_any_output_is_answered_in_debug_mode_too(area, inspector):
    for file in (area.stdout, area.stderr):
        os.truncate(file.fileno(), 0)
    assert inspector.look("").startswith("[payload.std")


def test_after_the_jobs_end_nothing_is_looked_at(area):
    with Inspector(area) as inspector:
        pass
    assert "the job has ended" in inspector.look("ls")
