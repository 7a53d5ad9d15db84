"""Whole pilots whose jobs, site data, answers and evaluations are spoilt: they go on, and each job has its one end.

What is spoilt comes from the same source as in `test_fuzz.py`, and is repeated by the same SEED.
"""

import json
import re
import shlex
from collections import Counter

import pytest

from tests.hostile.fuzz import Mutator, Unspoilt, written
from tests.hostile.fuzzing import SEED, TIMES
from tests.hostile.spoiling_proxy import SpoilingProxy
from tests.lab import definition, dump, until
from tests.studies import PATIENCE, study, submit

EXIT_CODES = (0, 1, 64, 78, 80)
ENDED = ("finished", "failed", "closed", "cancelled")
JOBS = 36 * min(TIMES, 5)
SITES = 8 * min(TIMES, 5)
QUICK = {"PILOT_PATIENCE": "5", "PILOT_LOST_ANSWER": "0"}
ALONE = ("PandaID", "attemptNr")
"""What says whose job it is stays, so that it can be followed."""

pytestmark = pytest.mark.timeout(300 * min(TIMES, 5))


def envelope_of(body):
    """The answer's job, and its envelope; None without."""
    told = json.loads(body)
    jobs = (told.get("data") or {}).get("jobs") if told.get("success") else None
    return (told, jobs[0]) if jobs else None


class Spoiler:
    """Spoils what ``make`` makes of a path's answers, each as a case of its own."""

    def __init__(self, name, part, make):
        self.name, self.part, self.make, self.count = name, part, make, 0

    def __call__(self, path, body):
        if self.part not in path:
            return body
        self.count += 1
        return self.make(Mutator(f"{SEED} {self.name} {self.count}"), body)


def spoilt_job(case, body):
    found = envelope_of(body)
    if found is None:
        return body
    envelope, job = found
    kept = {name: job[name] for name in ALONE if name in job}
    case.huge = False
    spoilt = case.value({name: value for name, value in job.items() if name not in ALONE}, case.pick([1, 1, 2]))
    if not isinstance(spoilt, dict):
        spoilt = {}
    envelope["data"]["jobs"] = [{**spoilt, **kept}]
    return written(envelope)


def is_json(body):
    """Whether anybody can read it, and so see whose job it is."""
    try:
        json.loads(body, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


def said(pilot):
    """All that it has printed."""
    return pilot.log.read_text(errors="replace") + pilot.errors.read_text(errors="replace")


def check(pilot, code, what):
    """It ended as is promised, and without a fault of its own."""
    text = said(pilot)
    assert code in EXIT_CODES, f"{what}: exit code {code}\n{text[-4000:]}"
    fault = re.search(r"(?s).{0,1500}(Traceback|internal error|InternalError).{0,3000}", text)
    assert fault is None, f"{what}: {fault[0]}"


def check_ends(serve, jobs, lost=()):
    """Each job that was given out has one final; those ``lost`` on the way have none, or one."""
    for job in jobs:
        status = serve.status(job)
        if status["state"] in ("activated", "defined") or (job in lost and status["state"] == "sent"):
            continue
        until(lambda one=job: serve.status(one)["state"] in ENDED, what=f"end of {dump(status)}")
        assert len(serve.finals(job)) == 1, dump(serve.status(job))
        assert serve.status(job)["pilot_error_code"] != 1319, dump(serve.status(job))


def test_jobs_that_are_spoilt_in_any_way_have_one_end_each(serve, run):
    serve.checked = False  # what the server keeps of the jobs is not what the pilot was told
    files = {
        "outFiles": "out.txt,the.log.tgz",
        "scopeOut": "test",
        "realDatasets": "t:o,t:l",
        "destinationDblock": "t:o,t:l",
    }
    kinds = [
        {"transformation": "echo", "jobPars": "words > out.txt", **files, "ddmEndPointOut": "LOCAL_STORE,LOCAL_STORE"},
        {"command": "echo $A", "environment": {"A": "1"}, "secrets": {"k": "a secret of it"}, "debug": "True"},
        {
            "inFiles": "in.txt",
            "inputUrls": {"in.txt": serve.store("in.txt", b"words")},
            "transformation": "cat",
            "jobPars": "in.txt",
        },
    ]
    jobs = [serve.submit_panda(**definition(**kinds[number % len(kinds)])) for number in range(JOBS)]
    lost = set()

    def spoil(case, body):
        content = spoilt_job(case, body)
        while not is_json(content) and spoiler.count % 12:  # a few only: each is a pause of the pilot's
            content = spoilt_job(case, body)
        if not is_json(content):
            lost.add(envelope_of(body)[1]["PandaID"])
        return content

    spoiler = Spoiler("jobs", "/acquire_jobs", spoil)
    with SpoilingProxy(serve.port, spoiler) as proxy:
        pilot = run("--max-jobs", JOBS, "--idle", 5, server=proxy.url, environment=QUICK)
        code = pilot.wait(200 * TIMES)
    check(pilot, code, "jobs")
    check_ends(serve, jobs, lost)
    ends = Counter((serve.status(job)["state"], serve.status(job)["pilot_error_code"]) for job in jobs)
    print(f"\n{JOBS} jobs: {dict(ends)}")
    assert ends["activated", 0] == 0
    assert len(lost) < JOBS / 4


@pytest.mark.parametrize("number", range(SITES))
def test_site_data_that_are_spoilt_in_any_way_end_no_pilot_in_a_fault(serve, run, number):
    serve.checked = False  # as above
    job = serve.submit(command="echo words > out", outputs=["out"])
    part = ("/schedconfig/", "/ddmendpoints")[number % 2]

    def spoil(case, body):
        return case.json(json.loads(body))

    with SpoilingProxy(serve.port, Spoiler(f"site {number}", part, spoil)) as proxy:
        pilot = run("--max-jobs", 1, "--idle", 1, server=proxy.url, environment={"PILOT_PATIENCE": "3"})
        code = pilot.wait(60)
    check(pilot, code, f"site {number}")
    check_ends(serve, [job])


def test_answers_to_updates_that_are_spoilt_do_not_end_the_heartbeats(serve, run):
    serve.checked = False  # a spoilt answer may well be a command to stop
    job = serve.submit(command="sleep 6", outputs=[])
    good = {"success": True, "message": "", "data": {"StatusCode": 0, "command": "ls,debug"}}

    def spoil(case, body):
        return case.json(good) if case.random.randrange(2) else body

    spoiler = Spoiler("updates", "/update_job", spoil)
    with SpoilingProxy(serve.port, spoiler) as proxy:
        pilot = run(
            "--max-jobs", 1, server=proxy.url, environment={"PILOT_HEARTBEAT": "0.1", "PILOT_DEBUG_HEARTBEAT": "0.1"}
        )
        code = pilot.wait(120)
    check(pilot, code, "updates")
    until(lambda: serve.status(job)["state"] in ("finished", "failed"), what="the end")
    beats = [json.loads(one["body"])["job_status"] for one in serve.calls("update_job", job)]
    assert beats.count("running") >= 6, beats
    print(f"\n{len(beats)} updates")


def test_evaluations_and_events_that_are_spoilt_end_no_study_in_a_fault(serve, run, tmp_path):
    serve.checked = False  # events that got lost stay with the job
    answers = tmp_path / "answers"
    answers.mkdir()
    points = 16
    for number in range(points):
        case = (Mutator if number % 2 else Unspoilt)(f"{SEED} evaluations {number}")
        (answers / f"{number}.json").write_bytes(case.json({"status": 0, "loss": 0.5, "message": "well"}))
        (answers / f"{number}.meta").write_bytes(case.json({"a": [1, 2.5]}))
        (answers / f"{number}.jsonl").write_bytes(case.json({"step": 1, "loss": 0.5}) + b"\n")
    code = (
        f"import json, shutil; n = int(json.load(open('input.json'))['x'] * {points});"
        f"a = {str(answers)!r} + f'/{{n}}';"
        "shutil.copy(a + '.json', 'output.json'); shutil.copy(a + '.meta', 'meta.json');"
        "shutil.copy(a + '.jsonl', 'progress.jsonl')"
    )
    submit(serve, study(points=points, command=f"python3 -c {shlex.quote(code)}"))

    def spoil(case, body):
        return case.json(json.loads(body)) if case.random.randrange(3) == 0 else body

    with SpoilingProxy(serve.port, Spoiler("events", "/api/v1/event/", spoil)) as proxy:
        pilot = run(
            "--max-jobs", 1, server=proxy.url,
            environment={
                **PATIENCE, **QUICK, "PILOT_POINT_FAILURE": "penalise", "PILOT_POINT_RETRIES": "0",
            },
        )  # fmt: skip
        code = pilot.wait(150)
    check(pilot, code, "study")
    jobs = {found[1] for found in re.finditer(r"\bjob=(\d+)", said(pilot))}
    assert jobs
    check_ends(serve, sorted(jobs))
