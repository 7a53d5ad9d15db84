"""`pilot tune`, `pilot submit` and `pilot status` with studies, as their users meet them."""

import itertools
import json
import re
import runpy
import signal
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from pilot.embedded.hpo.optimiser import Trial, suggest
from pilot.values.study import parse_study
from tests.lab import clean_environment, until
from tests.studies import ECHO, ended, python, study

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTING = """
import json, os, sys, time
x = json.load(open("input.json"))["x"]
begun, done = sys.argv[1:3]
open(begun, "a").write(os.environ["HPO_SAMPLE_ID"] + "\\n")
for step in range(1, 5):
    time.sleep(0.1)
    print(json.dumps({"step": step, "loss": x / step}), file=open("progress.jsonl", "a"))
json.dump({"status": 0, "loss": x * x}, open("new", "w"))
os.rename("new", "output.json")
open(done, "a").write(os.environ["HPO_SAMPLE_ID"] + "\\n")
"""
"""An evaluation of half a second that notes where others can see it when it has begun and when it was done."""


class Tune:
    """A `pilot tune` process on a study of this test."""

    def __init__(self, folder: Path, *arguments: str, **posted):
        self.folder = folder
        self.out = folder / "out"
        self.begun, self.done = folder / "begun", folder / "done"
        (folder / "note.py").write_text(NOTING)
        noting = f"python3 note.py {self.begun} {self.done}"
        evaluation = {"exec": posted.pop("command", noting), "sandbox": ["note.py"], **posted.pop("evaluation", {})}
        self.file = folder / "study.yaml"
        self.file.write_text(yaml.safe_dump({**study(**posted), "evaluation": evaluation}))
        self.arguments = arguments
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pilot", "tune", str(self.file), "--out", str(self.out), *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        return self

    def end(self, seconds=90):
        """Exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def run(self):
        return self.start().end()

    def children(self):
        """All processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def count(self, file):
        return Counter(file.read_text().split()) if file.exists() else Counter()

    def results(self):
        return json.loads((self.out / "results.json").read_text())


@pytest.fixture
def tune(tmp_path):
    """Makes a study and its `pilot tune`; what still runs ends with the test."""
    made = []

    def make(*arguments, **posted):
        made.append(Tune(tmp_path, *arguments, **posted))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.terminate()
            one.process.communicate(timeout=60)


# --- to the end -------------------------------------------------------------------------------------------


def test_a_study_is_run_to_its_end(tune):
    one = tune(points=6)
    code, out, err = one.run()
    assert (code, err) == (0, ""), out + err
    found = one.results()
    assert (found["state"], found["evaluated"], found["failed"], found["pruned"]) == ("finished", 6, 0, 0)
    best = min(found["points"], key=lambda point: point["loss"])
    assert found["best"] == {key: best[key] for key in ("id", "loss", "parameters")}
    assert best["loss"] == pytest.approx(best["parameters"]["x"] ** 2)
    assert out.count("  loss ") >= 6
    assert f"best loss {best['loss']!r}, point {best['id']}" in out
    assert f"results  {one.out}/results.json" in out
    assert out.splitlines()[-1].startswith("finished: 6 points evaluated, 0 failed")
    assert one.count(one.done) == Counter("123456")
    board = json.loads((one.out / "leaderboard.json").read_text())
    assert board["counts"]["evaluated"] == 6
    assert board["best"][0]["id"] == best["id"]


def test_json_is_one_object_and_nothing_else(tune):
    one = tune("--json", points=2)
    code, out, err = one.run()
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert {"best", "evaluated", "failed", "seconds"} <= set(told)
    assert set(told["best"]) == {"id", "loss", "parameters"}
    assert (told["evaluated"], told["failed"], told["state"]) == (2, 0, "finished")


def test_results_name_the_slot_of_each_evaluation(tune):
    one = tune(points=5)
    assert one.run()[0] == 0
    found = one.results()
    assert {stay["point"] for stay in found["evaluations"]} == set("12345")
    assert all(stay["verdict"] == "measured" and stay["ended"] > stay["began"] for stay in found["evaluations"])
    for slot in {stay["slot"] for stay in found["evaluations"]}:
        own = sorted((stay["began"], stay["ended"]) for stay in found["evaluations"] if stay["slot"] == slot)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))
    assert all(point["slot"] is not None and point["seconds"] > 0 for point in found["points"])


def test_the_page_needs_nothing_else_and_shows_everything(tune):
    one = tune(points=6)
    assert one.run()[0] == 0
    page = (one.out / "index.html").read_text()
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"<(link|img|iframe|script)\b[^>]*(src|href)=", page)
    for title in ("Best point", "Optimisation history", "Slices", "Importance", "Intermediate losses", "Slots"):
        assert f"<h2>{title}" in text, title
    assert text.count("<tr") == 1 + 6
    assert repr(one.results()["best"]["loss"]) in text


def test_a_pruned_study_of_generations_and_a_random_grid_end_as_well(tune):
    one = tune(points=6, points_per_iteration=3, pruner={"kind": "median", "startup_points": 1})
    code, out, err = one.run()
    assert code == 0, out + err
    found = one.results()
    assert found["evaluated"] == 6
    assert all(point["state"] in ("evaluated", "pruned") for point in found["points"])


# --- again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("everything", [False, True], ids=["tune", "server and pilot too"])
def test_after_a_kill_nothing_is_lost_and_nothing_evaluated_twice(tune, everything):
    one = tune(points=10).start()
    until(lambda: sum(one.count(one.done).values()) >= 4, what="four points")
    left = one.children()
    pilots = psutil.Process(one.process.pid).children()
    for process in (*pilots, one.process) if everything else (one.process,):
        process.kill()
    one.process.communicate()
    before = one.count(one.done)
    code, out, err = one.run()
    assert code == 0, out + err
    assert not [process for process in left if process.is_running()]
    found = one.results()
    assert {point["id"] for point in found["points"]} == {str(number) for number in range(1, 11)}
    assert found["evaluated"] == 10
    assert set(before) <= set(one.count(one.done))
    assert max(one.count(one.done).values()) == 1
    assert all(point["loss"] == pytest.approx(point["parameters"]["x"] ** 2) for point in found["points"])
    assert len(found["lives"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_says_how_to_go_on_and_does(tune, number):
    one = tune(points=8).start()
    until(lambda: sum(one.count(one.done).values()) >= 3, what="three points")
    left = one.children()
    one.process.send_signal(number)
    code, out, err = one.end()
    assert (code, err) == (130, ""), out + err
    assert not [process for process in left if process.is_running()]
    assert "to go on: pilot tune" in out
    assert one.results()["state"] == "stopped"
    assert 3 <= one.results()["evaluated"] < 8
    assert one.run()[0] == 0
    assert one.results()["evaluated"] == 8
    assert max(one.count(one.done).values()) == 1


def test_a_finished_study_prints_its_results_again_and_more_points_go_on(tune):
    one = tune(points=2)
    first = one.run()
    assert first[0] == 0
    log = (one.out / "pilot.jsonl").read_text()
    again = one.run()
    assert again[0] == 0
    assert again[1].splitlines() == first[1].splitlines()[-len(again[1].splitlines()) :]
    assert (one.out / "pilot.jsonl").read_text() == log
    more = tune(points=4)
    assert more.run()[0] == 0
    assert more.results()["evaluated"] == 4
    assert one.count(one.done) == Counter("1234")


def test_another_study_in_the_same_directory_is_refused(tune):
    assert tune(points=1).run()[0] == 0
    code, _, err = tune(points=1, steering={"builtin": "random", "seed": 2}).run()
    assert code == 78
    assert "another study is named parabola: choose another name" in err
    assert len(err.splitlines()) == 1


def test_two_at_once_in_one_directory_are_refused(tune, tmp_path):
    one = tune(points=20).start()
    until(one.begun.exists, what="the first point")
    code, _, err = tune(points=20).run()
    assert code == 78
    assert "another `pilot tune` is at work there" in err


# --- failures ---------------------------------------------------------------------------------------------


def test_a_study_that_cannot_work_is_given_up_with_its_reason(tune):
    one = tune(points=20, command="echo no module named torch >&2; exit 1")
    code, out, _ = one.run()
    assert code == 1
    assert "failed: " in out.splitlines()[-1]
    assert "no module named torch" in out.splitlines()[-1]
    tarball = re.search(r"what it printed is in (\S+)", out).group(1)
    assert Path(tarball).is_file()
    assert one.results()["state"] == "failed"


def test_a_point_that_always_fails_does_not_end_the_study(tune):
    fails = "if test $HPO_SAMPLE_ID = 2; then exit 9; fi; " + python(ECHO)
    one = tune(points=4, command=fails, attempts=2)
    code, out, err = one.run()
    assert code == 0, out + err
    found = one.results()
    assert (found["evaluated"], found["failed"]) == (3, 1)
    assert found["best"]["id"] != "2"
    assert "finished: 3 points evaluated, 1 failed" in out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("command: 'true'\n", "this is a job, and no study"),
        ("study: x\nmax_points: none\n", "search_space"),
        ("[1, 2]\n", "study file: must be an object"),
        ("{", "neither YAML nor JSON"),
    ],
)
def test_wrong_usage_is_one_line_and_78(tmp_path, text, why):
    (tmp_path / "study.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pilot", "tune", "study.yaml"],
        cwd=tmp_path, capture_output=True, text=True, env=clean_environment(), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.yaml"]


# --- submit and status ------------------------------------------------------------------------------------


def pilot(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pilot", *map(str, arguments)],
        capture_output=True, text=True, env=clean_environment(), timeout=60, check=False,
    )  # fmt: skip


def test_a_study_is_submitted_with_its_files_and_its_status_is_told(serve, run, tmp_path):
    (tmp_path / "square.py").write_text(ECHO)
    (tmp_path / "train.txt").write_text("data\n")
    posted = study(points=3, command="test -s train.txt && python3 square.py")
    posted["evaluation"] |= {"sandbox": ["square.py"], "inputs": ["train.txt"]}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(posted))
    done = pilot("submit", file, "--server", serve.url, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["state"]) == ("parabola", "running")
    assert f"task {told['task']}" in pilot("submit", file, "--server", serve.url).stdout
    environment = {"PILOT_LINGER": "1", "PILOT_STEERING_WAIT": "1", "PILOT_IDLE": "1"}
    assert run(environment=environment).wait() == 0
    assert ended(serve, told["task"])["state"] == "finished"
    shown = pilot("status", "--study", told["task"], "--server", serve.url).stdout.splitlines()
    assert shown[0].startswith(f"task {told['task']}  finished")
    assert shown[1] == "parabola: 3 of 3 points evaluated"
    as_json = json.loads(pilot("status", "--study", told["task"], "--server", serve.url, "--json").stdout)
    assert as_json["counts"]["evaluated"] == 3


def test_status_wants_a_job_or_a_study(serve):
    for arguments in ((), ("1", "--study", "1"), ("--study", "99")):
        done = pilot("status", *arguments, "--server", serve.url)
        assert done.returncode == 78
        assert len(done.stderr.splitlines()) == 1


# --- the example ------------------------------------------------------------------------------------------


def random_search(seed):
    """The best loss of a random search on the example's space, with as many points."""
    raw = yaml.safe_load((EXAMPLES / "digits" / "study.yaml").read_text())
    given = parse_study({**raw, "steering": {"builtin": "random", "seed": seed}})
    losses = runpy.run_path(str(EXAMPLES / "digits" / "evaluate.py"))["losses"]
    trials = []
    while len(trials) < given.max_points:
        point = suggest(given, trials, 1)[0]
        trials.append(Trial(point, list(losses(point))[-1]))
    return min(trial.loss for trial in trials)


@pytest.mark.alone
@pytest.mark.timeout(400)
def test_the_digits_example_is_better_than_random_search(tmp_path):
    done = pilot("tune", EXAMPLES / "digits" / "study.yaml", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["evaluated"] == 20
    assert 1 - told["best"]["loss"] >= 0.98
    assert told["best"]["loss"] < statistics.median(random_search(seed) for seed in range(1, 6))
