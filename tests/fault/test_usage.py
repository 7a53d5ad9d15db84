"""Shows 5 and 6 of issue 5: what a payload uses is recorded as the kernel counts it, and watching it costs little."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest

from pilot.runner.journal import read
from tests.fault.test_zoo import UNIFIED, WITHOUT_GROUP, missing
from tests.lab import clean_environment, dump, until

pytestmark = pytest.mark.alone

MIB = 1 << 20

WORKERS = """
import json, os, resource, sys, time

def burn(name, seconds):
    while time.process_time() < seconds:
        sum(range(1000))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    with open(name + ".new", "w") as file:
        json.dump(spent.ru_utime + spent.ru_stime, file)
    os.rename(name + ".new", name)

def child(name, seconds, daemon=False):
    pid = os.fork()
    if pid:
        return pid
    if daemon:
        os.setsid()
        if os.fork():
            os._exit(0)
    burn(name, seconds)
    os._exit(0)

children = [child("early1", 0.4), child("early2", 0.4), child("long", 1.5), child("daemon", 1.5, daemon=True)]
for pid in children:
    os.waitpid(pid, 0)
while not os.path.exists("daemon"):
    time.sleep(0.01)
burn("first", time.process_time() + 0.5)
for name in ("early1", "early2", "long", "daemon", "first"):
    print(open(name).read())
"""

HOLDERS = """
mkfifo pipe; exec 3<>pipe
for i in 1 2 3 4; do dd if=/dev/zero of=pipe bs=75M count=1 2>/dev/null & holders="$holders $!"; done
held() { while read key value _; do [ $key = VmRSS: ] && [ $value -gt 76000 ] && return; done </proc/$1/status; false; }
for holder in $holders; do until held $holder; do sleep 0.1; done; done
sleep 3
kill $holders
"""

SLEEPERS = """
mkfifo pipe; exec 3<>pipe
i=0; while [ $i -lt 1000 ]; do sleep 600 & i=$((i+1)); done
read word <&3
"""

FIELDS = {
    **dict.fromkeys(("cpu_consumption_time", "mean_core_count"), int),
    **{f"{kind}_{what}": (int, float) for kind in ("max", "avg") for what in ("vmem", "rss", "pss", "swap")},
    **{f"{kind}_{what}": (int, float) for kind in ("tot", "rate") for what in ("rbytes", "wbytes")},
    **dict.fromkeys(("cpu_consumption_unit", "job_metrics"), str),
}


class Job:
    """A payload, and the pilot that runs it, behind ``prefix``."""

    def __init__(self, serve, base, command, *, prefix=(), settings=(), **definition):
        self.serve, self.work = serve, base / "work"
        self.id = serve.submit(command=command, **definition)
        self.log_file = base / "pilot.log"
        with self.log_file.open("w") as out:
            self.pilot = subprocess.Popen(
                [*prefix, sys.executable, "-m", "pilot", "run", "--server", serve.url, "--work", self.work],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), **dict(settings)},
                start_new_session=True,
            )

    @property
    def area(self) -> Path | None:
        return next(self.work.glob("job-*"), None)

    def samples(self):
        """The lines of usage.jsonl so far."""
        file = next(self.work.glob("pilot/job-*/usage.jsonl"), None)
        return [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []

    def finished(self):
        """The members of its log tarball."""
        assert self.pilot.wait(60) == 0, self.log_file.read_text()
        status = self.serve.ended(self.id)
        assert (status["state"], status["exit_code"]) == ("finished", 0), dump(status)
        with tarfile.open(fileobj=io.BytesIO(self.serve.fetch(status["log"]))) as tar:
            return {one.name.rsplit("/", 1)[1]: tar.extractfile(one).read().decode() for one in tar}

    def told(self, state):
        """What the server was sent in updates of this state."""
        bodies = [json.loads(one["body"]) for one in self.serve.calls("update_job", self.id)]
        return [one for one in bodies if one["job_status"] == state]

    def end(self):
        if self.pilot.poll() is None:
            self.pilot.send_signal(signal.SIGTERM)
            self.pilot.wait(60)


@pytest.fixture
def job(serve, tmp_path):
    started = []

    def start(command, **more):
        started.append(Job(serve, tmp_path, command, **more))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture(params=["with a group", "without"])
def surroundings(request):
    """Where the pilot may make a control group for its payload, and where not."""
    if os.geteuid() != 0 or UNIFIED is None:
        return missing("root, and control groups of version 2") if request.param == "with a group" else []
    return [] if request.param == "with a group" else WITHOUT_GROUP


def python(script):
    return shlex.join([sys.executable, "-S", "-c", script])


def lines(members):
    return [json.loads(line) for line in members["usage.jsonl"].splitlines()]


def deviation(seen, truth, what):
    """In percent, told to people: ``pytest -s``."""
    percent = 100 * (seen - truth) / truth
    print(f"\n{what}: {seen:g} seen, {truth:g} in truth: {percent:+.2f} %")
    return abs(percent)


def test_cpu_time_counts_those_that_exit_early_and_those_that_daemonise(job, surroundings):
    """Each worker writes down what the kernel says of it at its end."""
    one = job(python(WORKERS), prefix=surroundings)
    members = one.finished()
    truth = sum(map(float, members["payload.stdout"].split()))
    assert truth > 4
    how = "with a control group" if not surroundings else "from /proc"
    assert deviation(lines(members)[-1]["cpu_s"], truth, f"CPU seconds, the last sample {how}") < 5
    assert deviation(json.loads(members["job_report.json"])["payload"]["cpu_s"], truth, "CPU seconds, wait4") < 5
    (final,) = one.told("finished")
    assert final["cpu_consumption_time"] in (int(truth), int(truth) + 1)
    assert final["cpu_consumption_unit"].startswith("s")


def test_memory_of_several_processes_at_once_is_their_sum(job, surroundings):
    one = job(HOLDERS, prefix=surroundings, settings={"PILOT_HEARTBEAT": "0.7"})
    samples = lines(one.finished())
    (final,) = one.told("finished")
    assert deviation(final["max_pss"], 300 * 1024, "KiB of max_pss") < 5
    assert deviation(final["max_rss"], 300 * 1024, "KiB of max_rss") < 5
    assert final["max_vmem"] > final["max_rss"] >= final["max_pss"] >= final["avg_pss"] > 120 * 1024
    assert final["max_swap"] == 0
    assert max(sample["processes"] for sample in samples) == 6
    assert [sample["after_s"] for sample in samples] == sorted({sample["after_s"] for sample in samples})
    assert len(samples) >= 4
    beats = [beat for beat in one.told("running") if "max_rss" in beat]
    assert beats, one.told("running")
    for told in (*beats, final):
        wrong = {name: told.get(name) for name, kind in FIELDS.items() if not isinstance(told.get(name), kind)}
        assert not wrong
        metrics = dict(entry.split("=") for entry in told["job_metrics"].split())
        assert (metrics["actualCoreCount"], int(metrics["samples"]) > 0) == ("1", True)
    assert [beat["max_pss"] for beat in beats] == sorted(beat["max_pss"] for beat in beats)


def test_bytes_that_went_to_storage_are_counted(job, surroundings, tmp_path):
    if subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path], text=True).strip() == "tmpfs":
        missing("a directory that is no tmpfs")
    one = job("dd if=/dev/zero of=big bs=1M count=50 conv=fsync", prefix=surroundings)
    samples = lines(one.finished())
    (final,) = one.told("finished")
    assert deviation(final["tot_wbytes"], 50 * MIB, "bytes written") < 5
    assert samples[-1]["written_bytes"] == final["tot_wbytes"]
    assert final["rate_wbytes"] > 0


def test_a_recovered_final_carries_the_last_sample_of_the_killed_pilot(serve, lives):
    job = serve.submit(command=python("while True: sum(range(1000))"))
    pilot = lives()

    def sampled():
        usages = [one["usage"] for one in read(lives.work) if one["kind"] == "usage"]
        return usages and usages[-1]["samples"] >= 3

    until(sampled, 20, "a record of the usage within the first seconds")
    pilot.process.kill()
    pilot.process.wait()
    usage = [one["usage"] for one in read(lives.work) if one["kind"] == "usage"][-1]
    assert lives(command=["recover"]).wait() == 0
    assert serve.ended(job)["state"] == "failed"
    told = [json.loads(one["body"]) for one in serve.calls("update_job", job)]
    (final,) = [one for one in told if one["job_status"] == "failed"]
    assert final["cpu_consumption_time"] == round(usage["cpu_s"]) > 0
    assert final["max_rss"] == usage["max_rss"] >> 10 > 1024
    assert f"samples={usage['samples']}" in final["job_metrics"]


def cpu_s(pid):
    """CPU time of a process's threads, in nanosecond steps: a tick of 10 ms is a tenth of what is measured here."""
    return sum(int((one / "schedstat").read_text().split()[0]) for one in Path(f"/proc/{pid}/task").iterdir()) / 1e9


@pytest.mark.timeout(240)
def test_a_thousand_processes_are_watched_within_half_a_percent_of_a_core(job):
    """From one look at all of them to a later one, so that looks count as often as they are taken (promise P5)."""
    window_s = 60 if os.environ.get("SOAK") else 12
    one = job(SLEEPERS)

    def crowded():
        return [sample for sample in one.samples() if sample["processes"] > 1000]

    first = until(crowded, what="a look at all of them")[-1]
    began, before = time.monotonic(), cpu_s(one.pilot.pid)

    def later():
        return [sample for sample in crowded() if sample["after_s"] > first["after_s"] + window_s]

    until(later, 120, "a later look")
    seconds, spent = time.monotonic() - began, cpu_s(one.pilot.pid) - before
    rss = psutil.Process(one.pilot.pid).memory_info().rss / MIB
    share = 100 * spent / seconds
    looks = len(crowded()) - 1
    print(f"\n1001 processes: {share:.2f} % of a core over {seconds:.0f} s with {looks} looks, RSS {rss:.1f} MiB")
    with (one.area / "work/pipe").open("w") as pipe:
        pipe.write("enough\n")
    one.finished()
    assert share <= 0.5
    assert rss < 64
