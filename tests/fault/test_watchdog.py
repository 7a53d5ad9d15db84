"""A pilot whose main thread is stuck ends itself with 2, in time, with its stacks in the log and a good journal."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pilot.payload.procfs import look
from pilot.runner.journal import read
from tests.lab import clean_environment, dump, until

GRACE_S = 5
FROZEN = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def start(serve, tmp_path):
    """Starts a pilot in front of which something may stand, with a pipe for its stdout."""
    started = []
    work = tmp_path / "work"

    def begin(*prefix, **environment):
        command = [*prefix, sys.executable, "-m", "pilot", "run", "--server", serve.url, "--work", str(work)]
        pilot = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**clean_environment(), "PILOT_GRACE": str(GRACE_S), **environment},
            start_new_session=True,
        )
        started.append(pilot)
        return pilot

    begin.work = work
    yield begin
    for pilot in started:
        if pilot.poll() is None:
            os.killpg(pilot.pid, signal.SIGKILL)
        pilot.wait()
        pilot.stdout.close()


def kinds(work):
    return [record["kind"] for record in read(work)]


def recovered(serve, work, job, code):
    """The next life, which finds a good journal, says the end."""
    command = [sys.executable, "-m", "pilot", "recover", "--work", str(work)]
    subprocess.run(command, env=clean_environment(), check=True, timeout=60, stdout=subprocess.DEVNULL)
    status = serve.ended(job)
    assert (status["state"], status["pilot_error_code"]) == ("failed", code), dump(status)


def stuff(pipe):
    """Fill a pipe that nobody reads any more."""
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    writer = os.open(f"/proc/self/fd/{pipe.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(writer, b"x")
    except BlockingIOError:
        os.close(writer)


def test_a_pilot_that_hangs_in_a_full_pipe_ends_inside_the_grace(serve, start):
    job = serve.submit(command="sleep 600")
    pilot = start(PILOT_IN_POD="yes")
    until(lambda: "started" in kinds(start.work), what="a payload")
    stuff(pilot.stdout)
    asked = time.monotonic()
    pilot.send_signal(signal.SIGTERM)
    assert pilot.wait(30) == 2
    assert time.monotonic() - asked < GRACE_S
    log = (start.work / "pilot.log").read_text()
    assert "the pilot is stuck and ends itself: the grace period is nearly over" in log
    assert "Current thread" in log
    assert "in _end" in log, "the stack of main names the function that it is stuck in"
    recovered(serve, start.work, job, 1379)


def test_a_pilot_that_hangs_in_a_native_call_ends_without_being_asked(serve, start):
    """A record of its journal comes to no end: as on a dead network file system."""
    job = serve.submit(command="sleep 600")
    hang = "inject=fdatasync:delay_enter=4s:when=5"  # strace holds its thread for so long, also when it ends
    pilot = start("strace", "-D", "-qq", "-o", os.devnull, "-e", "trace=fdatasync", "-e", hang, PILOT_STUCK="1")
    assert pilot.wait(60) == 2
    log = (start.work / "pilot.log").read_text()
    assert "ends itself: nothing done for 1 s" in log
    assert "in _put" in log, "the stack of main names the function that it is stuck in"
    assert kinds(start.work)[-1] == "taken"
    recovered(serve, start.work, job, 1200)


def test_a_child_that_nobody_can_end_does_not_hold_the_pilot(serve, start):
    folder = FROZEN / f"pilot-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        text = f"no freezer cgroup can be made: {error}"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    job = serve.submit(command="sleep 600")
    pilot = start()
    try:
        started = until(lambda: [one for one in read(start.work) if one["kind"] == "started"], what="a payload")
        (folder / "cgroup.procs").write_text(str(started[0]["proof"]["pid"]))
        (folder / "freezer.state").write_text("FROZEN")
        asked = time.monotonic()
        pilot.send_signal(signal.SIGTERM)
        assert pilot.wait(30) in (0, 2)
        assert time.monotonic() - asked < GRACE_S
        status = serve.ended(job)
        assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)
    finally:
        (folder / "freezer.state").write_text("THAWED")
        until(lambda: not (folder / "cgroup.procs").read_text(), what="an empty cgroup")
        folder.rmdir()
        left_behind = Path(started[0]["proof"]["cgroup"])  # nobody could take it away as long as the child was there
        until(lambda: not (left_behind / "cgroup.procs").read_text(), what="the child's end")
        left_behind.rmdir()


MANY = """
import os, signal, sys, threading, time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4
from pilot.files.folder import Folder
from pilot.payload.process import PayloadProcess
from pilot.runner.watchdog import Watchdog
from pilot.values.stop import Stop

folder = Path(sys.argv[1])
running = []
for number in range(4):
    running.append(PayloadProcess(
        "(setsid sleep 600 & echo $! >>pids); echo $$ >>pids; exec sleep 600", folder, {"PATH": os.environ["PATH"]},
        Folder.at(folder).create("o"), Folder.at(folder).create("e"),
        mark=uuid4().hex, ours=lambda: [one.pid for one in running], alone=False,
    ))
    while len((folder / "pids").read_text().split() if (folder / "pids").exists() else ()) < 2 * number + 2:
        time.sleep(0.01)
watchdog = Watchdog(float(sys.argv[2]), 30, folder / "log", arrivals=os.eventfd(0), stop=Stop())
(folder / "groups").write_text("\\n".join(one.proof.cgroup for one in running if one.proof.cgroup))
guards = [watchdog.guards(one.proof) for one in running]
with watchdog:
    for guard in guards:
        guard.__enter__()
    guards[1].__exit__(None, None, None)
    guards[0].__exit__(None, None, None)
    guards[0] = watchdog.guards(running[0].proof)
    guards[0].__enter__()
    threading.Event().wait()
"""


def test_all_payloads_that_are_guarded_end_with_a_stuck_pilot_and_no_other(tmp_path):
    command = [sys.executable, "-c", MANY, str(tmp_path), "0.2"]
    try:
        assert subprocess.run(command, timeout=60, check=False).returncode == 2
        pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 8
        until(lambda: [pid for pid in pids if _alive(pid)] == sorted(pids[2:4], key=pids.index), what="the ends")
    finally:
        for pid in (tmp_path / "pids").read_text().split():
            if _alive(int(pid)):
                os.kill(int(pid), signal.SIGKILL)
        for group in _groups(tmp_path):
            until(lambda group=group: not (group / "cgroup.procs").read_text(), what="an empty group")
            group.rmdir()


def _alive(pid):
    process = look(pid)
    return process is not None and process.alive


def _groups(folder):
    """Control groups that are still there: that of the payload that was not guarded."""
    groups = map(Path, (folder / "groups").read_text().split())
    return [group for group in groups if group.exists()]
