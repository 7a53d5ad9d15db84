"""The checker itself: each of its rules is broken once, by hand, over the HTTP of a real `pilot serve`."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from tests.checker import check, examine
from tests.facts import Facts, Pilot, Process, facts_of, left_running, process
from tests.lab import Run, Serve, definition
from tests.studies import study, submit

GOOD = b"what the payload made\n"
OUTPUTS = {"outFiles": "out.txt,the.log.tgz", "scopeOut": "test", "realDatasets": "a,b", "destinationDblock": "a,b",
           "ddmEndPointOut": "LOCAL_STORE,LOCAL_STORE"}  # fmt: skip


class Hand:
    """A pilot made by hand: it says what it is told to say."""

    def __init__(self, server):
        self.server = server

    def submit(self, **more):
        return self.server.submit_panda(**definition(**{**OUTPUTS, **more}))

    def post(self, call, **fields):
        return self.server.call("POST", f"/api/v1/pilot/{call}", json=fields)

    def acquire(self, node="n"):
        return [
            one["PandaID"] for one in (self.post("acquire_jobs", site_name="LOCAL", node=node)["data"] or {})["jobs"]
        ]

    def say(self, job, state, **fields):
        fields = {name: value for name, value in fields.items() if value is not None}
        return self.post("update_job", job_id=job, job_status=state, attempt_nr=1, **fields)["data"]

    def begin(self, node="n", **more):
        """A job that runs."""
        job = self.submit(**more)
        assert self.acquire(node) == [job]
        self.say(job, "starting")
        self.say(job, "running")
        return job

    def report(self, job, content=GOOD, told=GOOD, names=("out.txt", "the.log.tgz")):
        """The outputs, stored with one content and told with another."""
        return {
            name: {"guid": "g", "fsize": len(told), "adler32": f"{zlib.adler32(told):08x}",
                   "surl": self.server.store(f"{job}.{name}", content)}
            for name in names
        }  # fmt: skip

    def finish(self, job, report=None, **fields):
        report = json.dumps(report or self.report(job))
        fields = {"trans_exit_code": 0, "pilot_error_code": 0, "job_output_report": report, **fields}
        return self.say(job, "finished", **fields)

    def fail(self, job, code=1305):
        return self.say(job, "failed", pilot_error_code=code, pilot_error_diag="why")


@pytest.fixture
def serve(tmp_path):
    """A server whose history is made by hand: here it is the test that calls the checker."""
    server = Serve(tmp_path / "data")
    server.checked = False
    yield server
    server.stop()


@pytest.fixture
def hand(serve):
    return Hand(serve)


def found(serve, **facts):
    """The violations as text, without those that every test of a rule would have to explain."""
    return [str(one) for one in check(serve.url, Facts(**facts), data=serve.data)]


def test_a_good_history_breaks_nothing(serve, hand):
    # Given: a finished job, told twice because an answer was lost; a failed one; one that the user killed;
    # one whose acquire was never answered; one that nobody asked for
    serve.faults({"match": "update_job", "do": "drop_after", "state": "finished"})
    job = hand.begin()
    report = hand.report(job)
    with pytest.raises(OSError, match="Connection"):
        hand.finish(job, report)
    assert hand.finish(job, report)["command"] == "alreadydone"
    hand.fail(hand.begin())
    killed = hand.submit()
    assert hand.acquire() == [killed]
    hand.post("../job/kill", job_ids=[killed])
    assert hand.fail(killed, 1144)["command"] == "tobekilled"
    serve.faults({"match": "acquire_jobs", "do": "drop_after"})
    hand.submit()
    with pytest.raises(OSError, match="Connection"):
        hand.acquire()
    hand.submit()
    # Then: nothing is found, quickly, and the bytes were looked at, on the disk and over HTTP
    began = time.monotonic()
    seen = examine(serve.url, data=serve.data)
    assert time.monotonic() - began < 0.3
    assert (seen.violations, seen.summary) == ([], "3 jobs, 3 finals, 2 outputs checked, 0 violations")
    assert examine(serve.url).summary == seen.summary


def test_a_final_that_was_refused_may_be_said_again_with_its_core(serve, hand):
    job = hand.begin()
    report = hand.report(job)
    assert hand.finish(job, report, pilot_timing="x" * 200)["StatusCode"] == 30
    assert hand.finish(job, report)["StatusCode"] == 0
    assert found(serve) == []


# P1


def test_two_different_finals_are_named_with_their_requests(serve, hand):
    job = hand.begin()
    hand.finish(job)
    assert hand.fail(job, 1201)["command"] in ("alreadydone", "tobekilled")
    (line,) = found(serve)
    assert line.startswith(f"P1 job {job}: two different finals: finished at ")
    assert "failed/1201 at" in line
    assert "(request " in line


@pytest.mark.parametrize(
    ("change", "named"),
    [({"trans_exit_code": None}, "trans_exit_code"), ({"job_output_report": "{}"}, "job_output_report")],
)
def test_two_finals_of_one_state_may_differ_in_nothing_that_counts(serve, hand, change, named):
    job = hand.begin()
    hand.finish(job)
    hand.finish(job, **change)
    assert any(line.startswith(f"P1 job {job}: two different finals") and named in line for line in found(serve))


def test_a_final_that_got_lost_was_said_too(serve, hand):
    job = hand.begin()
    serve.faults({"match": "update_job", "do": "drop_before", "state": "finished"})
    with pytest.raises(OSError, match="Connection"):
        hand.finish(job)
    hand.fail(job)
    (line,) = found(serve)
    assert "two different finals" in line


@pytest.mark.parametrize(
    ("states", "what"), [(["running", "starting"], "starting at"), (["finished", "running"], "after the final")]
)
def test_states_do_not_go_back(serve, hand, states, what):
    job = hand.begin()
    for state in states:
        hand.finish(job) if state == "finished" else hand.say(job, state)
    if "finished" not in states:
        hand.finish(job)
    (line,) = found(serve)
    assert line.startswith(f"P1 job {job}: ")
    assert what in line


def test_a_job_that_never_ended_is_found_unless_it_was_abandoned(serve, hand):
    job = hand.begin()
    (line,) = found(serve)
    assert line.startswith(f"P1 job {job}: no end: the server has it as running")
    assert found(serve, abandoned=frozenset({job})) == []
    assert found(serve, ended=False) == []


def test_an_acquired_job_that_was_never_spoken_of_has_no_end_either(serve, hand):
    job = hand.submit()
    hand.acquire()
    (line,) = found(serve)
    assert line.startswith(f"P1 job {job}: no end: the server has it as sent")


def test_a_node_has_one_job_at_a_time(serve, hand):
    first, second, other = hand.begin("n"), hand.begin("n"), hand.begin("m")
    for job in (first, second, other):
        hand.finish(job)
    (line,) = found(serve)
    assert line == f"P1 job {second}: acquired at node n while it had job {first}"
    assert found(serve, slots=2) == []
    assert found(serve, pilots=(Pilot(node="n"), Pilot(node="n"))) == []


def test_a_points_loss_is_told_once(serve):
    task = submit(serve, study(points=2, initial_points=[[{"x": 0.1}, None], [{"x": 0.2}, None]]))
    for point, loss in (("1", "0.5"), ("2", "0.25"), ("1", "0.5")):
        serve.call("PUT", f"/idds/hpo/{task}/null/{point}/{loss}")
    assert check(serve.url, Facts(ended=False)) == []
    serve.call("PUT", f"/idds/hpo/{task}/null/2/0.75")
    assert [str(one) for one in check(serve.url, Facts(ended=False))] == [
        f"P1: point 2 of task {task} was told two losses: 0.25, 0.75"
    ]


def test_finals_of_unknown_jobs_and_attempts_are_found(serve, hand):
    job = hand.begin()
    hand.fail(4711)
    hand.post("update_job", job_id=job, job_status="failed", pilot_error_code=1305, attempt_nr=7)
    lines = found(serve, abandoned=frozenset({job}))
    assert any(line.startswith("P1 job 4711: the server does not know it") for line in lines)
    assert any(line.startswith(f"P1 job {job}: a final") and "attempt 7" in line for line in lines)


def test_a_payload_is_not_run_twice(serve, hand, tmp_path):
    job = hand.begin()
    hand.finish(job)
    runs = tmp_path / "runs"
    runs.write_text(f"{job}\n")
    assert found(serve, runs_file=runs) == []
    runs.write_text(f"{job}\n{job}\n")
    assert found(serve, runs_file=runs) == [f"P1 job {job}: 2 runs of the payload, at most 1 were due"]
    runs.write_text("run\nrun\n")
    assert found(serve, runs_file=runs) == ["P1: 2 runs of the payload, at most 1 were due"]


# P2


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"trans_exit_code": 3}, "trans_exit_code 3"),
        ({"trans_exit_code": None}, "no trans_exit_code"),
        ({"pilot_error_code": 1137}, "pilot_error_code 1137"),
        ({"exe_error_code": 1}, "exe_error_code 1"),
    ],
    ids=str,
)
def test_finished_goes_with_exit_status_0_only(serve, hand, fields, what):
    job = hand.begin()
    hand.finish(job, **fields)
    (line,) = found(serve)
    assert line.startswith(f"P2 job {job}: finished at")
    assert line.endswith(f"with {what}")


def test_failed_goes_with_a_code(serve, hand):
    job = hand.begin()
    hand.fail(job, 0)
    (line,) = found(serve)
    assert line.startswith(f"P2 job {job}: failed")
    assert line.endswith("without any error code")


@pytest.mark.parametrize("content", [b"What the payload made\n", GOOD[:-1], None], ids=["a bit", "its end", "all"])
def test_an_output_is_what_was_told(serve, hand, content):
    job = hand.begin()
    report = hand.report(job, content or GOOD)
    if content is None:
        for entry in report.values():
            serve.session.delete(entry["surl"]).close()
    hand.finish(job, report)
    lines = found(serve)
    assert len(lines) == 2, "an output and the log"
    assert all(line.startswith(f"P2 job {job}: finished at") and ", but output " in line for line in lines)
    assert sorted(lines) == sorted(str(one) for one in check(serve.url)), "over HTTP it looks the same"


@pytest.mark.parametrize("name", ["out.txt", "the.log.tgz"])
def test_every_declared_output_and_the_log_are_in_the_report(serve, hand, name):
    (left,) = {"out.txt", "the.log.tgz"} - {name}
    job = hand.begin()
    hand.finish(job, hand.report(job, names=[left]))
    (line,) = found(serve)
    assert line.startswith(f"P2 job {job}: finished")
    assert f"without output {name}" in line


def test_an_output_that_may_be_missing_may_be_missing(serve, hand):
    job = hand.begin(allowNoOutput="out.txt")
    hand.finish(job, hand.report(job, names=["the.log.tgz"]))
    assert found(serve) == []


def test_a_pushed_jobs_outputs_are_known_too(serve, hand):
    job = hand.submit()
    hand.say(job, "running")
    hand.finish(job, hand.report(job, names=["the.log.tgz"]))
    assert "without output out.txt" in found(serve)[0]


def test_what_lies_elsewhere_is_counted_or_asked_for(serve, hand):
    job = hand.begin()
    report = hand.report(job)
    report["out.txt"]["surl"] = "root://storage.example.org//out.txt"
    hand.finish(job, report)
    seen = examine(serve.url)
    assert (seen.violations, seen.outputs, seen.unchecked) == ([], 1, ["root://storage.example.org//out.txt"])

    def lister(url):
        if not url.startswith("root:"):
            raise LookupError(url)
        return 3, "00000001"

    (line,) = found(serve, listers=(lister,))
    assert "output out.txt has 3 bytes" in line


def test_a_file_that_another_job_has_overwritten_is_not_judged(serve, hand):
    first, second = hand.begin("n"), hand.begin("m")
    for job, content in ((first, b"first"), (second, b"second")):
        hand.finish(job, hand.report("shared", content, content))
    seen = examine(serve.url)
    assert (seen.violations, seen.outputs) == ([], 2)
    assert [one.partition(" ")[2] for one in seen.unchecked] == ["(overwritten by another job)"] * 2


# P3


def test_no_job_is_asked_for_after_a_stop(serve, hand):
    hand.submit()
    hand.acquire("n")
    (job,) = [one["id"] for one in serve.call("GET", "/local/jobs")["jobs"]]
    hand.fail(job)
    now = time.time()
    stopped = Pilot(node="n", stop_asked_at=now - 2, gone_at=now - 1)
    assert found(serve, pilots=(stopped,)) == [], "what came later was another pilot's"
    (line,) = found(serve, pilots=(Pilot(node="n", stop_asked_at=now - 2, gone_at=now),))
    assert line.startswith("P3: a job was asked for at")
    assert found(serve, pilots=(Pilot(node="m", stop_asked_at=now - 2, gone_at=now),)) == []
    assert len(found(serve, pilots=(Pilot(stop_asked_at=now - 2, gone_at=now),))) == 1, "the only one it can be"


def test_a_job_that_comes_after_the_stop_is_not_begun(serve, hand):
    serve.faults({"match": "acquire_jobs", "do": "late", "seconds": 0.5})
    before = time.time()
    job = hand.begin()
    hand.finish(job)
    (line,) = found(serve, pilots=(Pilot(stop_asked_at=before + 0.1, gone_at=time.time()),))
    assert line.startswith(f"P3 job {job}: running at")


@pytest.mark.parametrize(
    ("grace", "took", "late"), [(30, 24.9, False), (30, 25.1, True), (10, 7.9, False), (10, 8.1, True)]
)
def test_a_pilot_is_gone_with_a_margin(serve, grace, took, late):
    asked = time.time() - 100
    lines = found(serve, pilots=(Pilot(stop_asked_at=asked, gone_at=asked + took, grace_s=grace),))
    assert [line.split(",")[0] for line in lines] == [f"P3: the pilot was gone {took} s after the stop"] * late


def test_a_pilot_that_stays_is_found(serve):
    (line,) = found(serve, pilots=(Pilot(stop_asked_at=time.time() - 100),))
    assert line.startswith("P3: the pilot was not gone")


# P8


def test_a_survivor_is_found(serve):
    assert found(serve, survivors=("123 sleep",)) == ["P8: still running when its pilot was gone: 123 sleep"]


def test_what_a_pilot_leaves_running_is_found_by_session_directory_or_environment(serve, tmp_path):
    work = tmp_path / "work"
    (work / "job").mkdir(parents=True)
    left = "import os, time; os.setsid(); {}; print(flush=True); time.sleep(600)"
    traces = {
        "nothing": (left.format("os.chdir('/')"), {}),
        "directory": (left.format(f"os.chdir({str(work / 'job')!r})"), {}),
        "environment": (left.format("os.chdir('/')"), {"HOME": str(work)}),
    }
    processes = {}
    try:
        for name, (code, environment) in traces.items():
            given = {**os.environ, **environment}
            processes[name] = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=given)
            processes[name].stdout.readline()
        pids = {name: one.pid for name, one in processes.items()}
        first = process(pids["nothing"])
        seen = {int(one.split()[0]) for one in left_running(work, first, set())}
        assert seen == set(pids.values()), "the first one by its session"
        seen = {int(one.split()[0]) for one in left_running(work, first, {pids["directory"]})}
        assert seen == {pids["nothing"], pids["environment"]}, "what belongs to another pilot is not left over"
    finally:
        for one in processes.values():
            with one:
                one.kill()


def test_an_innocent_process_that_died_is_found(serve):
    with subprocess.Popen(["sleep", "600"]) as victim:
        innocents = (process(victim.pid), process(os.getpid()))
        assert found(serve, innocents=innocents) == []
        victim.kill()
        os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
        line = f"P8: process {victim.pid}, which is nobody's payload, is gone"
        assert found(serve, innocents=innocents) == [line], "dead, though not yet buried"
    assert found(serve, innocents=innocents) == [line]
    another = Process(os.getpid(), process(os.getpid()).start - 1)
    assert len(found(serve, innocents=(another,))) == 1, "the number is another process's by now"


# The program, and the servers of tests


def program(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tests.checker", *map(str, arguments)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_the_program_prints_violations_and_a_summary_and_exits_with_1(serve, hand, tmp_path):
    good, bad = hand.begin("n"), hand.begin("m")
    hand.finish(good)
    hand.finish(bad, trans_exit_code=3)
    code, (line, summary), _ = program("--server", serve.url)
    assert (code, summary) == (1, "2 jobs, 2 finals, 4 outputs checked, 1 violations")
    assert line.startswith(f"P2 job {bad}: ")
    # the same of the directory that it leaves, though its URLs name a port where nobody is
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"survivors": ["sleep"], "pilots": [{"node": "n", "grace_s": 5}], "abandoned": [1]}))
    serve.stop()
    code, lines, _ = program("--data", serve.data, "--facts", facts)
    assert (code, lines) == (
        1,
        [line, "P8: still running when its pilot was gone: sleep", summary.replace(" 1 v", " 2 v")],
    )


def test_the_program_exits_with_0_when_nothing_was_broken(serve):
    assert program("--server", serve.url) == (0, ["0 jobs, 0 finals, 0 outputs checked, 0 violations"], [])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--server", "http://127.0.0.1:9"],
        ["--data", "/no/such"],
        ["--bogus"],
        ["--facts", "/no/such", "--data", "/"],
    ],
    ids=" ".join,
)
def test_the_program_exits_with_78_when_it_cannot_work(arguments):
    code, lines, said = program(*arguments)
    assert (code, lines) == (78, [])
    assert "Traceback" not in "".join(said)


@pytest.mark.parametrize("raw", [[], {"pilot": []}, {"pilots": [{"nodes": "n"}]}, {"innocents": [3]}], ids=str)
def test_facts_that_cannot_be_are_refused(raw):
    with pytest.raises(ValueError, match="facts: "):
        facts_of(raw)


def test_a_test_whose_run_broke_a_promise_fails_when_its_server_is_stopped(tmp_path):
    server = Serve(tmp_path / "data")
    hand = Hand(server)
    job = hand.begin()
    server.faults({"match": "/local/", "do": "status", "status": 500, "count": None})
    with pytest.raises(AssertionError, match=f"P1 job {job}: no end"):
        server.stop()
    assert server.process.poll() == 0, "it has ended nevertheless"


def test_a_test_may_say_what_it_broke(tmp_path):
    server = Serve(tmp_path / "data")
    server.abandon(Hand(server).begin())
    server.stop()


def test_a_run_is_seen_to_be_stopped_and_gone(serve, tmp_path):
    pilot = Run(serve.url, tmp_path / "work", environment={"PILOT_GRACE": "7"})
    pilot.says("pilot starts")
    asked = time.time()
    pilot.signal(signal.SIGTERM)
    assert pilot.wait() == 0
    (seen,) = serve.facts().pilots
    assert seen.began_at < asked <= seen.stop_asked_at < seen.gone_at <= time.time()
    assert seen.grace_s == 7
    serve.check()
    pilot.gone_at = seen.stop_asked_at + 6
    with pytest.raises(AssertionError, match=r"P3: the pilot was gone 6\.0 s after the stop, 5\.6 s were allowed"):
        serve.check()
