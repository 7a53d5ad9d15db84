"""SIGTERM in each phase of a job, at each grace period, to a pilot that is PID 1 of its pod (promise P3).

A phase is reached by what the server's fault script holds back, or by what the payload does. The pilot must be gone
inside the grace period less its margin, with all that it started, and what it said must be true. The time runs from
the signal to the end of its PID namespace; survivors are counted from outside.

`pytest -s tests/fault/test_stop_table.py` prints the table. Where a phase takes its whole share of 120 s, that cell is
left to `SOAK=1`.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from pilot.runner.journal import read
from pilot.runner.past import tell
from pilot.values.deadline import Budget
from tests.facts import Pilot
from tests.lab import Serve, clean_environment, dump, until

GRACES = (120, 30, 5, 2)
SOAK = os.environ.get("SOAK", "") not in ("", "0")
HANGS_S = 600
PREEMPTED, FINISHED = ("failed", 1379), ("finished", 0)
ROOT = os.geteuid() == 0
AS_PID_1 = ["unshare", "-pf" if ROOT else "-Upf", *([] if ROOT else ["--map-root-user"])]
AS_PID_1 += ["--kill-child", "--mount-proc"]

LOOP = "while :; do sleep 0.1; done"
OUTPUT = {"command": "echo whole > out.txt", "outputs": ["out.txt"]}


@dataclass(frozen=True)
class Phase:
    """Where the signal meets the pilot.

    ``job`` is submitted, if there is one; ``inputs``: it has a file to be staged in. ``rules`` spoil what the server
    does. ``share``: of the grace period, what this phase takes if nothing lets it go on. ``said`` is what the server
    hears, None for nothing; at 2 s, where not everything fits, ``or_said`` is as true. ``log``: it is stored then.
    """

    name: str
    reached: Callable
    job: dict | None = None
    inputs: bool = False
    rules: tuple = ()
    share: str | None = None
    said: tuple | None = PREEMPTED
    or_said: tuple | None = PREEMPTED
    log: bool = True

    def lasts(self, grace):
        """How long it is obeyed at least, in seconds."""
        return getattr(Budget.of(grace), f"{self.share}_s") if self.share else 0.0


def hold(match, **more):
    """A rule that lets one request hang, unless told otherwise."""
    return {"match": match, "do": "delay", "seconds": HANGS_S, **more}


def met(cell):
    """The request that is spoiled has come."""
    return cell.serve.call("GET", "/local/faults")["rules"][0]["met"]


def asked(cell):
    """The server has said that there is no job."""
    return any(one["status"] == 200 for one in cell.serve.calls("acquire_jobs"))


def given(cell):
    """The job was given out, and the answer is on its way."""
    return cell.serve.status(cell.job)["state"] == "sent"


def runs(cell):
    """The payload has said that it is ready."""
    return any("ready" in one.read_text() for one in cell.work.glob("pilot/job-*/payload.stdout"))


PHASES = (
    Phase("waiting", asked, said=None),
    Phase(
        "acquire, answer comes",
        given,
        OUTPUT,
        rules=({"match": "acquire_jobs", "do": "late", "seconds": 0.3},),
        log=False,
    ),
    Phase("acquire, hangs", met, OUTPUT, rules=(hold("acquire_jobs"),), said=None),
    Phase("stage-in", met, OUTPUT, inputs=True, rules=(hold("/store/test/in"),)),
    Phase(
        "payload obeys",
        runs,
        {"command": f"trap 'exit 0' TERM; echo half > out.txt; echo ready; {LOOP}", "outputs": ["out.txt"]},
    ),
    Phase(
        "payload ignores",
        runs,
        {
            "command": f"trap '' TERM; setsid sh -c '{LOOP}' & echo half > out.txt; echo ready; {LOOP}",
            "outputs": ["out.txt"],
        },
        share="payload",
    ),
    Phase("stage-out, fits", met, OUTPUT, rules=(hold("/out.txt", seconds=1),), said=FINISHED),
    Phase("stage-out, hangs", met, OUTPUT, rules=(hold("/out.txt"),), share="outputs"),
    Phase(
        "final, not heard",
        met,
        OUTPUT,
        rules=(hold("update_job", state="finished"),),
        said=FINISHED,
        or_said=FINISHED,
    ),
    Phase(
        "final, answer hangs",
        met,
        OUTPUT,
        rules=({"match": "update_job", "state": "finished", "do": "late", "seconds": HANGS_S},),
        said=FINISHED,
        or_said=FINISHED,
    ),
)

OUTAGE = Phase("storage hangs for good", met, OUTPUT, rules=(hold("/store/", count=None),), share="outputs", log=False)
FINAL_LOST = Phase(
    "final, never heard",
    met,
    OUTPUT,
    rules=(hold("update_job", state="finished", count=None),),
    share="report",
    said=FINISHED,
    or_said=FINISHED,
)


class Cell:
    """A server of its own, and one pilot as PID 1 of a PID namespace."""

    def __init__(self, folder, grace):
        folder.mkdir(exist_ok=True)
        self.grace = grace
        self.work = folder / "work"
        self.marker = uuid4().hex
        self.log_file = folder / "pilot.log"
        self.serve = Serve(folder / "data")
        self.job = self.unshare = None
        self.said_later = False

    def submit(self, inputs=False, **definition):
        if inputs:
            definition["inputs"] = [{"name": "in", "url": self.serve.store("in", b"some bytes")}]
        self.job = self.serve.submit(**definition, environment={"STOP_MARKER": self.marker})

    def start(self):
        environment = {
            "PILOT_GRACE": str(self.grace),
            "PILOT_IN_POD": "yes",
            "PILOT_IDLE_LIMIT": str(HANGS_S),  # what hangs shall not be tried again
            "STOP_MARKER": self.marker,
        }
        self.began_at = time.time()
        with self.log_file.open("w") as out:
            self.unshare = subprocess.Popen(
                [*AS_PID_1, sys.executable, "-m", "pilot", "run", "--server", self.serve.url, "--work", self.work],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), **environment},
                start_new_session=True,
            )
        children = Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")
        self.pid = int(until(lambda: children.read_text().split(), what="the namespace")[0])
        self.pidfd = os.pidfd_open(self.pid)
        self.namespace = Path(f"/proc/{self.pid}/ns/pid").stat().st_ino
        assert self.namespace != Path("/proc/self/ns/pid").stat().st_ino

    def term(self):
        self.stop_asked_at, self.asked = time.time(), time.monotonic()
        signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def gone(self):
        """Seconds from the signal to the end of the namespace."""
        end = select.poll()
        end.register(self.pidfd, select.POLLIN)
        assert end.poll((self.grace + 10) * 1000), f"still there:\n{self.log()}"
        took = time.monotonic() - self.asked
        self.serve.pilots.append(Pilot(None, self.began_at, self.stop_asked_at, time.time(), self.allowed_facts()))
        self.code = self.unshare.wait()
        return took

    def allowed_facts(self):
        """The grace period as the checker shall know it: at 2 s the whole of it may be used."""
        return self.grace if self.grace > 2 else self.grace / 0.8

    def survivors(self):
        """Processes of the namespace, or with the marker in their environment."""
        return [one for one in Path("/proc").iterdir() if one.name.isdigit() and self._is_of_it(one)]

    def _is_of_it(self, folder):
        with contextlib.suppress(OSError):
            if (folder / "ns/pid").stat().st_ino == self.namespace:
                return True
            return self.marker.encode() in (folder / "environ").read_bytes()
        return False

    def recover(self):
        """The recoverer's one word on what the journal shows open."""
        assert tell(read(self.work)).open is not None, self.log()
        self.said_later = True
        self.serve.faults()
        command = [sys.executable, "-m", "pilot", "recover", "--work", self.work]
        later = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False
        )
        assert later.returncode == 0, later.stdout + later.stderr

    def log(self):
        return self.log_file.read_text()

    def close(self):
        if self.unshare is not None and self.unshare.poll() is None:
            self.unshare.kill()
            self.unshare.wait()
        if self.unshare is not None:
            os.close(self.pidfd)
        self.serve.stop()


@dataclass(frozen=True)
class Row:
    """What was seen of one cell."""

    phase: str
    grace: int
    took: float
    said: str
    code: int

    def __str__(self):
        return f"{self.phase:<22} {self.grace:>5} s  {allowed(self.grace):>5.1f} s  {self.took:>6.2f} s  {self.said}"


def allowed(grace):
    """The grace period less the margin of P3."""
    return grace - min(5.0, 0.2 * grace)


@pytest.fixture(scope="module")
def table():
    rows = []
    yield rows
    order = [one.name for one in (*PHASES, OUTAGE, FINAL_LOST)]
    print(f"\n{'SIGTERM during':<22} {'grace':>7}  {'limit':>7}  {'gone':>8}  said")
    for row in sorted(rows, key=lambda one: (order.index(one.phase), one.grace)):
        print(row)


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    if subprocess.run([*AS_PID_1, "true"], capture_output=True, check=False).returncode != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no PID namespaces are to be had here")


def stopped(phase, grace, folder):
    """One cell: the signal in this phase, and what is seen then."""
    cell = Cell(folder, grace)
    try:
        if phase.job is not None:
            cell.submit(inputs=phase.inputs, **phase.job)
        cell.serve.faults(*phase.rules)
        cell.start()
        until(lambda: phase.reached(cell), what=f"{phase.name}:\n{cell.log()}\n")
        cell.term()
        took = cell.gone()
        assert cell.survivors() == [], cell.log()
        assert took < (allowed(grace) if grace > 2 else grace), cell.log()
        said = heard(phase, cell)
        assert took > phase.lasts(grace) - 0.1, f"left its share unused: {took:.1f} s\n{cell.log()}"
    except BaseException:
        cell.serve.checked = False
        raise
    finally:
        cell.close()
    return Row(phase.name, grace, took, said, cell.code)


def heard(phase, cell):
    """What the server knows of the job, which must be true and said once."""
    assert "Traceback" not in cell.log(), cell.log()
    if phase.said is None:
        return untaken(cell)
    if (cell.grace == 2 or phase is FINAL_LOST) and not cell.serve.finals(cell.job):
        cell.recover()
    status = cell.serve.ended(cell.job)
    said = status["state"], status["pilot_error_code"]
    expected = {phase.said, phase.or_said} if cell.grace == 2 else {phase.said}
    assert said in expected, dump(status) + cell.log()
    assert len(stored_finals(cell)) == 1
    assert cell.said_later or cell.code == 0, cell.log()
    assert cell.grace == 2 or bool(status["log"]) == phase.log, cell.log()
    stored = any((cell.serve.data / "store").rglob("out.txt"))
    assert cell.grace == 2 or stored == (said == FINISHED), "an output is where none may be, or missing"
    return f"{said[0]}/{said[1]}, log {'stored' if status['log'] else 'not stored'}" + (
        ", by recover" if cell.said_later else ""
    )


def stored_finals(cell):
    """Those that the server took; one whose answer did not come is said again, and is `alreadydone` there."""
    return [one for one in cell.serve.finals(cell.job) if one["answer"] != "alreadydone"]


def untaken(cell):
    """No job was taken, so there is nothing to say."""
    assert tell(read(cell.work)).open is None
    assert cell.code == 0, cell.log()
    if cell.job is None:
        return "nothing: no job"
    assert cell.serve.status(cell.job)["state"] == "activated"
    return "nothing: the job is still to be had"


@pytest.mark.parametrize("phase", PHASES, ids=lambda one: one.name)
def test_a_pilot_that_is_pid_1_is_gone_inside_its_grace_and_has_told_the_truth(phase, table, tmp_path):
    graces = [one for one in GRACES if SOAK or phase.lasts(one) < 30]
    with ThreadPoolExecutor(2) as two:
        cells = [two.submit(stopped, phase, grace, tmp_path / str(grace)) for grace in graces]
    table += [one.result() for one in cells]


def test_a_storage_that_hangs_does_not_take_the_time_of_the_final(table, tmp_path):
    table.append(stopped(OUTAGE, 5, tmp_path))


@pytest.mark.parametrize("grace", [2, 10])
def test_a_final_that_could_not_be_delivered_in_time_is_said_by_the_recoverer(table, tmp_path, grace):
    row = stopped(FINAL_LOST, grace, tmp_path)
    assert "by recover" in row.said
    assert row.code == 1
    table.append(row)
