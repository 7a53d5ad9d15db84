"""Evaluations in sidecars: real runners, in directories that they share with us."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from pilot.files.folder import Folder
from pilot.payload.sidecar import Sidecar, SidecarEvaluation, find_sidecars
from pilot.values.deadline import Deadline
from pilot.values.errors import PayloadNotStarted
from pilot.values.stop import Reason, Stop
from tests.container.podman import Podman
from tests.lab import until

RUNNER = Path(__file__).parents[2] / "wrappers" / "payload-sidecar.sh"
SHELLS = [shell for shell in (["busybox", "sh"], ["dash"], ["bash", "--posix"]) if shutil.which(shell[0])]
ALIVE_S = 3.0
PLAIN = """
while :; do
    if [ -e __payload_in_sync_file__ ]; then
        rm __payload_in_sync_file__; sh __run_main_exec.sh; touch __payload_out_sync_file__
    fi
    sleep 0.05
done
"""
# Its state takes longer than the TERM: the shell that has started it dies of that at once.
SAVES = """
sh -c 'trap "sleep 0.5; echo saved >state; exit 3" TERM; echo $$ >pid; while :; do sleep 0.05; done'
"""
DEAF = """trap '' TERM; echo $$ >pid; while :; do sleep 0.05; done"""


class Runners:
    """Runners in directories below one; a runner's evaluations leave their pids there, so that none outlives a test."""

    def __init__(self, folder, shell):
        self.folder = folder
        self.shell = shell
        self.processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        for process in self.processes.values():
            process.kill()
            process.wait()
        for file in self.folder.glob("*/workDir/pid"):
            kill_session(file)

    def start(self, name, *command):
        root = self.folder / name
        root.mkdir(exist_ok=True)
        self.processes[name] = subprocess.Popen(command or [*self.shell, RUNNER, root], cwd=root)
        return root

    def sidecar(self, name):
        root = self.start(name)
        until((root / "__payload_alive__").exists, what="a sign of life")
        return Sidecar(root, ALIVE_S)

    def kill(self, name):
        """As a container that is killed: the runner and all that it has started."""
        self.processes[name].kill()
        self.processes[name].wait()
        kill_session(self.folder / name / "workDir/pid")


def kill_session(file):
    """Kill the session of the process whose number is in the file."""
    with contextlib.suppress(OSError, ValueError):
        session = os.getsid(int(file.read_text()))
        assert session != os.getsid(0)
        os.killpg(session, signal.SIGKILL)


def running(sidecar, text):
    """An evaluation that has left its pid."""
    one = evaluation(sidecar, text)
    until(
        lambda: (sidecar.root / "workDir/pid").exists() and (sidecar.root / "workDir/pid").read_text(), what="its pid"
    )
    return one


def evaluation(sidecar, text, environment=(), name="workDir"):
    work = sidecar.root / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return SidecarEvaluation(sidecar, text, work, dict(environment))


def end(one, seconds=30):
    """Exit code and what was printed."""
    assert one.wait(Deadline.after(seconds))
    return one.collect().exit_code, one.stdout.read_bytes().decode(), one.stderr.read_text()


@pytest.fixture(params=SHELLS, ids=lambda one: one[0])
def runners(request, tmp_path):
    (tmp_path / "slots").mkdir()
    with Runners(tmp_path / "slots", request.param) as runners:
        yield runners


def test_two_sidecars_evaluate_at_once_and_one_after_the_other(runners):
    # Given: two runners, each told to wait for what the other one's evaluation writes
    one, two = runners.sidecar("0"), runners.sidecar("1")
    assert [found.root for found in find_sidecars(runners.folder)] == [one.root, two.root]
    wait = (
        "echo $NAME >here; while ! [ -e ../../{}/workDir/here ]; do sleep 0.05; done; echo $NAME; echo no >&2; exit {}"
    )
    # When: both evaluate
    first = evaluation(one, wait.format(1, 3), {"NAME": "a b"})
    second = evaluation(two, wait.format(0, 0), {"NAME": "'$(exit 9)\"\n;"})
    # Then: both end, as they would have in our own container
    assert end(first) == (3, "a b\n", "no\n")
    assert end(second) == (0, "'$(exit 9)\" ;\n", "no\n")
    assert (one.root / "workDir/here").read_text() == "a b\n"
    assert (first.lost, first.living(), first.buried_s(), first.collect().survivors) == (False, [], 0.0, 0)
    # And: each can be used again, with nothing left of the last time
    assert end(evaluation(one, "printf done")) == (0, "done", "")


@pytest.mark.parametrize(
    "text",
    [
        "echo \"a'b\" 'c\"d' `echo e` $(echo f) \\$HOME\necho ä*; echo '",
        "echo 'a\n\nb'; exit 3 # '",
        "'; touch ../escaped; echo '",
        "cat <<'X'\n$(touch ../escaped)\nX",
        "cat; kill -KILL $$",
        "printf %s\\\\n '\\\\'\t\r",
        "# comment",
        "",
    ],
)
def test_a_payload_is_run_as_it_is_and_nothing_else(runners, text, tmp_path):
    # Given: what the shell of our own container makes of it
    folder = tmp_path / "own" / "work"
    folder.mkdir(parents=True)
    own = subprocess.run(
        ["/bin/sh", "-c", text], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    # When: a sidecar runs it, in a directory with a name as hostile
    sidecar = runners.sidecar("0")
    code, printed, _ = end(evaluation(sidecar, text, name="work $(touch x) 'd"))
    # Then: the same came of it; a shell has another number for a signal
    assert (code, printed) == (own.returncode if own.returncode >= 0 else 128 - own.returncode, own.stdout.decode())
    assert not [file for file in tmp_path.rglob("*") if file.name in ("x", "escaped")]


def test_term_leaves_it_time_to_save_and_the_end_is_that_of_all_it_has_started(runners):
    sidecar = runners.sidecar("0")
    one = running(sidecar, SAVES)
    one.tell(signal.SIGTERM)
    code, *_ = end(one)
    assert (sidecar.root / "workDir/state").read_text() == "saved\n"
    assert code in (3, 143)
    assert end(evaluation(sidecar, "echo next")) == (0, "next\n", "")


def test_another_soft_signal_is_the_one_that_it_gets(runners):
    one = running(runners.sidecar("0"), "trap 'echo usr1; exit 5' USR1; echo $$ >pid; while :; do sleep 0.05; done")
    one.tell(signal.SIGUSR1)
    assert end(one)[:2] == (5, "usr1\n")


def test_what_does_not_obey_is_killed_and_its_neighbour_goes_on(runners):
    # Given: one that hears no TERM, and a neighbour
    deaf = running(runners.sidecar("0"), DEAF)
    neighbour = running(runners.sidecar("1"), "echo $$ >pid; while ! [ -e go ]; do sleep 0.05; done; echo well")
    # When: it is told to stop
    deaf.stop(Deadline.after(0.5), hard=Deadline.after(20))
    # Then: it is killed, with what it has started; the other one is not
    assert deaf.collect().exit_code == 137
    assert not neighbour.ended()
    (runners.folder / "1/workDir/go").touch()
    assert end(neighbour) == (0, "well\n", "")


def test_a_hurry_ends_the_time_to_obey(runners):
    deaf = running(runners.sidecar("0"), DEAF)
    with Stop() as hurry:
        hurry.request(Reason.SIGTERM)
        began = time.monotonic()
        deaf.stop(Deadline.after(600), hurry=hurry, hard=Deadline.after(30))
    assert deaf.collect().exit_code == 137
    assert time.monotonic() - began < 60


def test_what_it_left_behind_is_ended_with_it(runners):
    sidecar = runners.sidecar("0")
    assert end(evaluation(sidecar, "sh -c 'echo $$ >pid; exec sleep 600' & while ! [ -s pid ]; do :; done"))[0] == 0
    left = Path("/proc", (sidecar.root / "workDir/pid").read_text().strip())
    until(lambda: not left.exists() or ") Z " in (left / "stat").read_text(), what="its end")


def test_a_killed_sidecar_is_told_as_lost_and_the_other_one_goes_on(runners):
    # Given: two evaluations
    lost = running(runners.sidecar("0"), "echo $$ >pid; sleep 600")
    other = running(runners.sidecar("1"), "echo $$ >pid; while ! [ -e go ]; do sleep 0.05; done; exit 4")
    # When: one of the runners is killed
    runners.kill("0")
    # Then: that is told, not before its time, and not long after
    began = time.monotonic()
    assert not lost.ended()
    assert lost.wait(Deadline.after(ALIVE_S + 10))
    assert time.monotonic() - began > ALIVE_S - 2
    assert (lost.lost, lost.collect().exit_code) == (True, -9)
    # And: the other one is as well as before; the dead one is given nothing more
    (runners.folder / "1/workDir/go").touch()
    assert end(other)[0] == 4
    assert not other.lost
    with pytest.raises(PayloadNotStarted, match="the sidecar 0 is gone"):
        evaluation(lost._sidecar, "true")


def test_a_sidecar_that_is_started_again_reports_what_it_was_killed_in_and_goes_on(runners):
    sidecar = runners.sidecar("0")
    one = running(sidecar, "echo $$ >pid; sleep 600")
    runners.kill("0")
    runners.start("0")
    assert one.wait(Deadline.after(20))
    assert (one.collect().exit_code, one.restarted, one.lost) == (137, True, False)
    assert end(evaluation(sidecar, "echo again")) == (0, "again\n", "")


@pytest.mark.parametrize("how", ["TERM", "file"])
def test_a_runner_that_is_to_leave_ends_its_evaluation_first(runners, how):
    one = running(runners.sidecar("0"), SAVES)
    runners.processes["0"].terminate() if how == "TERM" else (one._root / "__payload_exit__").touch()
    assert runners.processes["0"].wait(30) == 0
    assert (one._root / "workDir/state").read_text() == "saved\n"
    assert end(one)[0] in (3, 143)
    assert not one.lost
    assert find_sidecars(runners.folder) == []


def test_a_sidecar_that_has_left_is_given_nothing(runners):
    sidecar = runners.sidecar("0")
    assert sidecar.alive()
    runners.processes["0"].terminate()
    assert runners.processes["0"].wait(30) == 0
    with pytest.raises(PayloadNotStarted, match="the sidecar 0 is gone"):
        evaluation(sidecar, "true")


def test_the_end_of_another_evaluation_is_not_taken_for_this_ones(runners):
    sidecar = runners.sidecar("0")
    one = running(sidecar, "echo $$ >pid; while ! [ -e go ]; do sleep 0.05; done; exit 6")
    (sidecar.root / "__payload_out_sync_file__").write_text("0 0123456789abcdef\n")
    assert not one.ended()
    (sidecar.root / "__payload_stop__").write_text("kill 0123456789abcdef\n")
    until(lambda: not (sidecar.root / "__payload_stop__").exists(), what="a look at the word")
    (sidecar.root / "workDir/go").touch()
    assert end(one)[0] == 6


def test_a_busy_sidecar_is_given_nothing(runners):
    sidecar = runners.sidecar("0")
    one = running(sidecar, "echo $$ >pid; sleep 600")
    with pytest.raises(PayloadNotStarted, match="the sidecar 0 is still busy"):
        SidecarEvaluation(sidecar, "true", sidecar.root / "workDir", {})
    one.kill()
    assert one.collect().exit_code == 137


def test_a_runner_of_the_plain_contract_is_enough(tmp_path):
    with Runners(tmp_path, ["sh"]) as runners:
        sidecar = Sidecar(runners.start("0", "sh", "-c", PLAIN))
        assert find_sidecars(tmp_path) == []
        (sidecar.root / "__payload_alive__").touch()
        assert [one.root for one in find_sidecars(tmp_path)] == [sidecar.root]
        one = evaluation(sidecar, "echo $A; exit 3", {"A": "b"})
        assert end(one) == (0, "b\n", "")
        assert sidecar.alive(time.monotonic() + 1000)


def test_an_image_without_setsid_and_with_a_sleep_of_whole_seconds_is_enough(tmp_path):
    # Given: the least that a POSIX system has
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("mv", "rm", "dash"):
        (programs / name.replace("dash", "sh")).symlink_to(shutil.which(name))
    (programs / "sleep").write_text(f'#!/bin/sh\ncase $1 in *.*) exit 1 ;; esac\nexec {shutil.which("sleep")} "$1"\n')
    (programs / "sleep").chmod(0o755)
    # When: evaluations run there, and one is told to stop
    with Runners(tmp_path, ["/usr/bin/env", f"PATH={programs}", "sh"]) as runners:
        sidecar = runners.sidecar("0")
        assert end(evaluation(sidecar, "echo a; exit 3")) == (3, "a\n", "")
        one = evaluation(sidecar, "trap 'exit 7' TERM; echo up; while :; do sleep 1; done")
        until(lambda: one.stdout.exists() and one.stdout.read_text(), what="its output")
        one.tell(signal.SIGTERM)
        # Then: as everywhere else
        assert end(one)[0] == 7


def test_the_sign_of_life_is_judged_by_our_own_clock(tmp_path):
    sidecar, file = Sidecar(tmp_path, 10), tmp_path / "__payload_alive__"
    file.write_text("1 5")
    os.utime(file, ns=(0, 0))
    assert sidecar.alive(100.0)
    assert sidecar.alive(109.9)
    assert not sidecar.alive(110.0)
    file.write_text("1 0")
    os.utime(file, ns=(0, 0))
    assert sidecar.alive(500.0)
    file.unlink()
    assert not sidecar.alive(501.0)


def test_nothing_that_a_payload_plants_is_followed(runners, tmp_path):
    # Given: an evaluation that links the names of the next one's files to a file of ours
    ours = tmp_path / "ours"
    ours.write_text("secret")
    names = "__run_main_exec.sh __payload_text__ __payload_in_sync_file__ __payload_stop__ __payload_out_sync_file__"
    text = f"cd ..; for one in {names}; do rm -f $one; ln -s {shlex.quote(str(ours))} $one.new; done; mkfifo p.new"
    sidecar = runners.sidecar("0")
    assert end(evaluation(sidecar, text))[0] == 0
    # When: the next one is handed over, and links its output there
    one = evaluation(sidecar, f"rm ../payload.stdout; ln -s {shlex.quote(str(ours))} ../payload.stdout")
    assert one.wait(Deadline.after(30))
    one.collect()
    with Folder.at(tmp_path) as folder:
        one.fetch(folder.create("stdout"), folder.create("stderr"))
    # Then: it was neither written to nor fetched
    assert ours.read_text() == "secret"
    assert (tmp_path / "stdout").read_text() == ""
    assert (tmp_path / "stderr").read_text() == ""


def test_an_evaluation_that_spoils_its_sync_files_ends_all_the_same(runners):
    sidecar = runners.sidecar("0")
    spoil = "cd ..; rm __payload_running__; mkdir __payload_out_sync_file__; touch __payload_out_sync_file__/a; exit 8"
    assert end(evaluation(sidecar, spoil))[0] == 8


def test_what_cannot_be_handed_over_is_told(tmp_path):
    sidecar = Sidecar(tmp_path / "0")
    for text, work, environment in (
        ("a\0b", "0/workDir", {}),
        ("true", "1", {}),
        ("true", "0/../1", {}),
        ("true", "0/workDir", {"a;b": "c"}),
        ("true", "0/workDir", {}),  # the directory is not there
    ):
        with pytest.raises(PayloadNotStarted, match="could not be handed over"):
            SidecarEvaluation(sidecar, text, tmp_path / work, environment)
    assert list(tmp_path.iterdir()) == []


def _small_image(podman, folder):
    """An image of a shell and the few commands that the runner needs: no Python, no bash."""
    programs = [shutil.which(one) for one in ("dash", "sleep", "mv", "rm", "setsid", "cat")]
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(folder / "image.tar", "w", dereference=True) as tar:
        for program in programs:
            tar.add(program, f"bin/{'sh' if program.endswith('dash') else Path(program).name}")
        for library in {word for word in listed if word.startswith("/") and not word.endswith(":")}:
            tar.add(library, library.lstrip("/"))
    podman.answer("import", folder / "image.tar", "localhost/evaluation:1")
    return "localhost/evaluation:1"


def test_two_containers_evaluate_and_one_is_killed(tmp_path):
    if reason := Podman.missing():
        pytest.skip(reason)
    with Podman() as podman:
        # Given: two containers of an image with hardly anything in it, that see their directory as /srv
        image = _small_image(podman, tmp_path)
        for name in ("0", "1"):
            (tmp_path / "slots" / name).mkdir(parents=True)
            podman.answer(
                "run", "--detach", "--name", f"sidecar-{name}", "--read-only", "--workdir", "/srv",
                "--volume", f"{tmp_path}/slots/{name}:/srv", "--volume", f"{RUNNER}:/opt/runner.sh:ro",
                image, "/bin/sh", "/opt/runner.sh", "/srv",
            )  # fmt: skip
        one, two = until(lambda: len(found := find_sidecars(tmp_path / "slots")) == 2 and found, what="two sidecars")
        # When: both evaluate, one with an orphan in a session of its own, and the other one is killed
        text = "echo $$ $PWD; (setsid sleep 600 &); while ! [ -e go ]; do sleep 0.05; done"
        first, second = evaluation(one, text), evaluation(two, text)
        until(lambda: first.stdout.exists() and first.stdout.read_text(), what="its output")
        podman.answer("kill", "--signal", "KILL", "sidecar-1")
        # Then: that is told, the other one goes on, and nothing of it is left in its container
        assert second.wait(Deadline.after(30))
        assert second.lost
        assert not first.ended()
        (one.root / "workDir/go").touch()
        assert first.wait(Deadline.after(30))
        assert first.collect().exit_code == 0
        assert first.stdout.read_text().split()[1] == "/srv/workDir"
        listed = podman.answer("top", "sidecar-0", "comm").split()
        assert listed.count("sleep") <= 1, "of the runner's own"
        # And: TERM to the container ends the runner, which is PID 1, by itself
        podman.answer("stop", "--time", "60", "sidecar-0")
        assert podman.answer("inspect", "--format", "{{.State.ExitCode}}", "sidecar-0") == "0"
