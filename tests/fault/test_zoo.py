"""The pilot ends all processes of a payload, and no other (promise P8), however the payload resists.

The survivors are counted from outside: whoever has the job's marker in its environment. A stranger, a
process of the same user with the parent PID 1, must live on.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from pilot.runner.journal import read
from tests.lab import clean_environment, dump, until

pytestmark = pytest.mark.alone

ZOO = Path(__file__).with_name("zoo.py")
PIDS = Path("/sys/fs/cgroup/pids")
UNIFIED = next(
    (one for one in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (one / "cgroup.procs").exists()), None
)
WITHOUT_GROUP = ["unshare", "-m", "sh", "-c", f'mount -o remount,ro,bind {UNIFIED} && exec "$@"', "sh"]
AS_PID_1 = ["unshare", "-pf", "--kill-child", "--mount-proc"]
LIMIT = 120


def missing(what):
    """Skip for want of something of the machine; on CI that is a failure."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is not to be had here")


def carriers(marker):
    """Processes with the marker in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def in_namespace(inode):
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (folder / "ns/pid").stat().st_ino == inode:
                found.append(int(folder.name))
    return found


@pytest.fixture
def stranger():
    """A process that the pilot did not start: an orphan in a session of its own."""
    script = "setsid sleep 600 >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout)
    descriptor = os.pidfd_open(pid)
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), what="the stranger")
    yield pid
    alive = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)
    assert alive, "the stranger was ended"


@pytest.fixture
def limited():
    """A control group for few processes: its folder, and the command that puts a program into it."""
    folder = PIDS / f"zoo-{uuid4().hex}"
    try:
        folder.mkdir()
        (folder / "pids.max").write_text(str(LIMIT))
    except OSError:
        missing("a writable control group for the number of processes")
    yield folder, ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(folder / "cgroup.procs")]
    until(lambda: not (folder / "cgroup.procs").read_text().split(), what="an empty group")
    folder.rmdir()


class Job:
    """A payload of the zoo, run by a pilot of its own behind ``prefix``."""

    def __init__(self, serve, tmp_path, animal, *, prefix=(), settings=(), **definition):
        self.marker = uuid4().hex
        self.serve = serve
        self.id = serve.submit(
            command=shlex.join([sys.executable, str(ZOO), *animal.split()]),
            environment={"ZOO_MARKER": self.marker},
            **definition,
        )
        self.log_file = tmp_path / "pilot.log"
        with self.log_file.open("w") as out:
            self.pilot = subprocess.Popen(
                [*prefix, sys.executable, "-m", "pilot", "run", "--server", serve.url, "--work", tmp_path / "work"],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), **dict(settings)},
                start_new_session=True,
            )

    def log(self):
        return self.log_file.read_text()

    def runs(self):
        """Wait until the animal does what it does."""
        until(lambda: carriers(self.marker), what="the payload")

    def ended(self):
        """The server's verdict, after the pilot has left."""
        try:
            assert self.pilot.wait(90) == 0, self.log()
            assert carriers(self.marker) == []
            return self.serve.ended(self.id)
        finally:
            if self.pilot.poll() is None:
                self.pilot.kill()
                self.pilot.wait()
            for pid in carriers(self.marker):  # of a failed test
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["with a group", "without"])
def surroundings(request):
    """Where the pilot may make a control group for its payload, and where not."""
    if os.geteuid() != 0 or UNIFIED is None:
        return missing("root, and control groups of version 2") if request.param == "with a group" else []
    return [] if request.param == "with a group" else WITHOUT_GROUP


def was_finished(status):
    return (status["state"], status["exit_code"]) == ("finished", 0)


@pytest.mark.parametrize("animal", ["daemon", "handover", "orphans", "runaway"])
def test_what_a_payload_leaves_behind_is_ended_and_its_exit_status_stays(
    serve, tmp_path, stranger, surroundings, animal
):
    job = Job(serve, tmp_path, animal, prefix=surroundings)
    status = job.ended()
    assert was_finished(status), dump(status)
    assert re.search(r"left behind leftovers=[1-9]\d* survivors=0", job.log()), job.log()
    group = next(one["proof"]["cgroup"] for one in read(tmp_path / "work") if one["kind"] == "started")
    assert not group or not Path(group).exists()


def test_a_fork_bomb_is_ended_at_its_limit(serve, tmp_path, stranger, surroundings, limited):
    folder, enter = limited
    job = Job(serve, tmp_path, f"bomb {folder}/pids.current {LIMIT - 10}", prefix=[*enter, *surroundings])
    status = job.ended()
    assert was_finished(status), dump(status)
    seconds = float(re.search(r"left behind .*seconds=([\d.]+)", job.log())[1])
    assert seconds < 10


def test_a_fork_bomb_that_is_stopped_is_ended(serve, tmp_path, stranger, surroundings, limited):
    folder, enter = limited
    job = Job(serve, tmp_path, "bomb_itself", prefix=[*enter, *surroundings], settings={"PILOT_GRACE": "20"})
    until(lambda: int((folder / "pids.current").read_text()) >= LIMIT - 10, what="the limit")
    job.pilot.send_signal(signal.SIGTERM)
    status = job.ended()
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)


@pytest.mark.parametrize("animal", ["deaf", "stopped"])
def test_a_payload_that_does_not_listen_is_ended_by_a_stop(serve, tmp_path, stranger, surroundings, animal):
    job = Job(serve, tmp_path, animal, prefix=surroundings, settings={"PILOT_GRACE": "5"})
    job.runs()
    job.pilot.send_signal(signal.SIGTERM)
    status = job.ended()
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)


def test_a_payload_that_ignores_term_is_ended_after_its_wall_time(serve, tmp_path, stranger):
    job = Job(serve, tmp_path, "deaf", walltime_s=1)
    status = job.ended()
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1213), dump(status)


@pytest.mark.parametrize("animal", ["daemon", "handover", "bomb"])
def test_pid_1_of_a_pod_ends_what_its_payload_leaves_behind(serve, tmp_path, stranger, limited, animal):
    if os.geteuid() != 0:
        missing("root")
    folder, enter = limited
    more = f" {folder}/pids.current {LIMIT - 10}" if animal == "bomb" else ""
    job = Job(serve, tmp_path, animal + more, prefix=[*enter, *AS_PID_1])
    first = until(lambda: Path(f"/proc/{job.pilot.pid}/task/{job.pilot.pid}/children").read_text().split())
    inode = Path(f"/proc/{first[0]}/ns/pid").stat().st_ino
    assert inode != Path("/proc/self/ns/pid").stat().st_ino
    status = job.ended()
    assert was_finished(status), dump(status)
    assert re.search(r"left behind leftovers=[1-9]\d* survivors=0", job.log()), job.log()
    assert in_namespace(inode) == []
