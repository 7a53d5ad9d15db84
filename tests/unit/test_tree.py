"""What proves a process to be a payload's, and that nothing else is ended: with real processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.files.folder import Folder
from pilot.payload.process import PayloadProcess
from pilot.payload.procfs import MARK_NAME, boot_id, look, parse_stat, pid_namespace, snapshot
from pilot.payload.subgroup import Subgroup
from pilot.payload.tree import Proof, end_proven
from pilot.values.deadline import Deadline
from tests.lab import until

REST = " S 3 4 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 4711 100 200"


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=64))
def test_any_name_of_a_process_is_read(name):
    process = parse_stat(f"12 ({name}){REST}".encode())
    assert (process.name, process.pid, process.state, process.parent) == (name, 12, "S", 3)
    assert (process.group, process.session, process.threads, process.start_ticks) == (4, 5, 9, 4711)


@pytest.mark.parametrize("text", [b"", b"12 sleep S 1", b"12 (sleep) S 1 2", b"x (sleep) S" + b" 1" * 30])
def test_what_is_no_line_of_stat_is_refused(text):
    with pytest.raises(ValueError):
        parse_stat(text)


def test_a_process_whose_first_thread_has_ended_is_alive():
    assert parse_stat(f"12 (a){REST.replace('S', 'Z', 1)}".encode()).alive
    assert not parse_stat(f"12 (a){REST.replace('S', 'Z', 1).replace(' 9 ', ' 1 ', 1)}".encode()).alive


def test_a_snapshot_holds_us_and_our_line():
    seen = snapshot()
    assert seen.complete
    assert {os.getpid(), os.getppid()} <= seen.line(os.getpid())
    assert os.getpid() in {one.pid for one in seen.below([os.getppid()], lambda _: False)}


PROOF = Proof("ab" * 16, 12, 4711, "boot", 4026531836, "/sys/fs/cgroup/x")


def test_a_proof_survives_the_journal():
    assert Proof.from_json(json.loads(json.dumps(PROOF.as_json()))) == PROOF
    assert Proof.from_json({"mark": "ab"}) == Proof("ab")


@pytest.mark.parametrize(
    "wrong",
    [{"mark": 1}, {"mark": None}, {"pid": "12"}, {"pid": -1}, {"pid": True}, {"start_ticks": 1.5}, {"cgroup": None}],
)
def test_a_proof_that_is_not_well_formed_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Proof.from_json({**PROOF.as_json(), **wrong})


@pytest.fixture
def start():
    """Starts `sleep` in a session of its own, or a shell's text; all of them end with the test."""
    started = []

    def start_one(text="exec sleep 600", **environment):
        child = subprocess.Popen(["sh", "-c", text], env={**os.environ, **environment}, start_new_session=True)
        started.append(child)
        until(lambda: Path(f"/proc/{child.pid}/cmdline").read_bytes().startswith(b"sleep") or "&" in text)
        return child

    yield start_one
    for child in started:
        child.kill()
        child.wait()


def proof(child, mark=""):
    return Proof(mark, child.pid, look(child.pid).start_ticks, boot_id(), pid_namespace())


def soon():
    return Deadline.after(10)


def test_a_process_is_proven_by_pid_and_start_time(start):
    mine, other = start(), start()
    assert end_proven(proof(mine), soon()) == 0
    assert mine.wait(5) == -9
    assert other.poll() is None


def test_it_gets_time_to_end_by_itself(start):
    child = start()
    assert end_proven(proof(child), soon(), soft=Deadline.after(5)) == 0
    assert child.wait(5) == -15


@pytest.mark.parametrize(
    "change",
    [{"start_ticks": 1}, {"boot_id": "another"}, {"boot_id": ""}, {"pid_namespace": 1}, {"pid": 0, "start_ticks": 0}],
    ids=str,
)
def test_another_process_with_the_same_number_is_not_signalled(start, change):
    child = start()
    assert end_proven(replace(proof(child), **change), soon(), soft=Deadline.after(0.1)) == 0
    assert child.poll() is None


def test_the_mark_alone_proves(start):
    mark = uuid4().hex
    mine, other = start(**{MARK_NAME: mark}), start(**{MARK_NAME: uuid4().hex})
    assert end_proven(Proof(mark, 0, 0, boot_id(), pid_namespace()), soon()) == 0
    assert mine.wait(5) == -9
    assert other.poll() is None


def test_a_mark_on_a_process_that_is_older_than_the_payload_proves_nothing(start):
    mark = uuid4().hex
    older = start(**{MARK_NAME: mark})
    start_ticks = look(older.pid).start_ticks + 1
    assert end_proven(Proof(mark, 0, start_ticks, boot_id(), pid_namespace()), soon()) == 0
    assert older.poll() is None


def test_the_leaders_session_and_its_descendants_go_with_it(start, tmp_path):
    text = f"sleep 600 & echo $! >{tmp_path}/a; setsid sleep 600 & echo $! >{tmp_path}/b; echo >{tmp_path}/c; wait"
    child = start(text)
    until((tmp_path / "c").exists)
    pids = [int((tmp_path / name).read_text()) for name in "ab"]
    began = {pid: look(pid).start_ticks for pid in pids}
    assert end_proven(proof(child), soon()) == 0
    for pid in pids:
        now = look(pid)
        assert now is None or not now.alive or now.start_ticks != began[pid]


def test_whoever_asks_and_its_ancestors_are_never_signalled():
    mark = uuid4().hex
    script = (
        "from pilot.payload.procfs import boot_id, pid_namespace\n"
        "from pilot.payload.tree import Proof, end_proven\n"
        "from pilot.values.deadline import Deadline\n"
        f"print(end_proven(Proof({mark!r}, 0, 0, boot_id(), pid_namespace()), Deadline.after(5)))"
    )
    shell = ["sh", "-c", f"{sys.executable} -c '{script.replace(chr(39), chr(34))}'; echo lives"]
    done = subprocess.run(shell, env={**os.environ, MARK_NAME: mark}, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["0", "lives"]


def payload(tmp_path, text, **more):
    with Folder.at(tmp_path) as folder:
        printed = folder.create("stdout"), folder.create("stderr")
    return PayloadProcess(text, tmp_path, {"PATH": os.environ["PATH"]}, *printed, **more)


def test_without_being_a_subreaper_what_is_left_is_found_by_session_and_mark(tmp_path):
    mark = uuid4().hex
    text = "sleep 600 & echo $!; setsid sleep 600 & echo $!; exit 3"
    process = payload(tmp_path, text, mark=mark)
    assert process.wait(soon())
    end = process.collect()
    assert (end.exit_code, end.survivors) == (3, 0)
    for pid in map(int, (tmp_path / "stdout").read_text().split()):
        now = look(pid)
        assert now is None or not now.alive


SUBREAPER = """
import json, os, subprocess, sys
from pathlib import Path
from pilot.files.folder import Folder
from pilot.payload.process import PayloadProcess
from pilot.payload.procfs import look
from pilot.payload.tree import become_subreaper
from pilot.values.deadline import Deadline
assert become_subreaper()
folder = Path(sys.argv[1])
before = subprocess.Popen(["sleep", "600"])
ended = subprocess.Popen(["sh", "-c", "exit 7"])
lane = []
text = "for i in 1 2 3; do (setsid sleep 0.1 &); done; (setsid sleep 600 &); sleep 0.5; exit 5"
environment = {"PATH": os.environ["PATH"]}
process = PayloadProcess(
    text, folder, environment, Folder.at(folder).create("o"), Folder.at(folder).create("e"),
    mark="ab" * 16, ours=lambda: [ended.pid, *lane],
)
running = subprocess.Popen(["sh", "-c", "sleep 600; exit 0"], start_new_session=True)
lane.append(running.pid)
assert process.wait(Deadline.after(10))
end = process.collect()
zombies = [p for p in os.listdir("/proc") if p.isdigit() and (s := look(int(p))) and s.parent == os.getpid()]
answer = {
    "end": [end.exit_code, end.leftovers, end.survivors],
    "children": sorted(map(int, zombies)) == sorted([before.pid, ended.pid, running.pid]),
    "ended": ended.wait(), "before": before.poll(), "running": running.poll(),
}
before.kill()
os.killpg(running.pid, 9)
before.wait(), running.wait()
print(json.dumps(answer))
"""


def test_other_children_are_neither_ended_nor_reaped(tmp_path):
    command = [sys.executable, "-c", SUBREAPER, str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {"end": [5, 1, 0], "children": True, "ended": 7, "before": None, "running": None}


def test_the_payload_is_in_its_group_before_it_runs_and_the_group_goes_with_it(tmp_path):
    mark = uuid4().hex
    trial = Subgroup.make(uuid4().hex)
    if trial is None:
        pytest.skip("no control group can be made here")
    assert trial.remove()
    process = payload(tmp_path, "cat /proc/self/cgroup; echo \"$0\" '$1'", mark=mark)
    assert process.wait(soon())
    assert process.proof.cgroup.endswith(mark)
    assert process.collect().exit_code == 0
    lines = (tmp_path / "stdout").read_text().splitlines()
    assert any(line.startswith("0::") and line.endswith(f"pilot-payload-{mark}") for line in lines)
    assert lines[-1] == "/bin/sh $1"
    assert not Path(process.proof.cgroup).exists()


def test_a_group_proves_its_members_and_no_other_name_does(start):
    mark = uuid4().hex
    group = Subgroup.make(mark)
    if group is None:
        pytest.skip("no control group can be made here")
    child = start()
    group.entrance.write_text(str(child.pid))
    found = Proof(mark, 0, 0, boot_id(), pid_namespace(), str(group.path))
    assert end_proven(replace(found, mark=uuid4().hex), soon()) == 0
    assert child.poll() is None
    assert end_proven(found, soon()) == 0
    assert child.wait(5) == -9
    assert not group.path.exists()


def test_a_stop_reaches_a_payload_that_is_stopped(tmp_path):
    process = payload(tmp_path, "trap 'exit 4' TERM; kill -STOP $$; exit 0", mark=uuid4().hex)
    until(lambda: look(process.pid).state == "T")
    process.stop(soon())
    assert process.collect().exit_code == 4
