"""Study files: what a user writes, what is sent, and how a study looks as text."""

import io
import json
import os
import tarfile

import pytest
import yaml

from pilot.agent.local.board import end_lines, live_lines, parameters, study_lines
from pilot.agent.local.jobfile import read_content
from pilot.agent.local.plots import rebuilt
from pilot.agent.local.results import results
from pilot.agent.local.studyfile import is_study, read_study_file
from pilot.agent.local.timeline import Stay, Timeline
from pilot.values.errors import UsageError
from pilot.values.study import parse_study
from tests.studies import SPACE, study


def written(folder, form="yaml", **more):
    file = folder / f"study.{form}"
    file.write_text(json.dumps(study(**more)) if form == "json" else yaml.safe_dump(study(**more)))
    return file


def members(given):
    with tarfile.open(fileobj=io.BytesIO(given.sandbox)) as tar:
        return {one.name: (tar.extractfile(one).read().decode(), one.mode) for one in tar}


# --- the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_study_file_is_yaml_or_json(tmp_path, form):
    file = written(tmp_path, form, points=7)
    given = read_study_file(file)
    assert is_study(read_content(file))
    assert (given.study.max_points, given.archive, given.sandbox) == (7, "", b"")
    assert parse_study(given.in_place()["study"]) == given.study


def test_the_names_of_phpo_are_understood(tmp_path):
    (tmp_path / "phpo.json").write_text(
        json.dumps({"maxPoints": 3, "evaluationExec": "sh run.sh", "searchSpace": SPACE, "checkPointToSave": "a,b"})
    )
    found = read_study_file(tmp_path / "phpo.json").study
    assert (found.max_points, found.evaluation.exec, found.checkpoint.save) == (3, "sh run.sh", ("a", "b"))


def test_a_job_is_no_study(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("command: 'true'\n")
    assert not is_study(read_content(file))
    with pytest.raises(UsageError, match="pilot try"):
        read_study_file(file)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"max_point": 3}, "max_point: unknown key; did you mean max_points?"),
        ({"evaluation": {"sandbox": ["gone.py"]}}, "gone.py: there is no such file beside the study file"),
        ({"evaluation": {"inputs": ["gone.h5"]}}, "gone.h5: there is no such file beside the study file"),
        ({"evaluation": {"inputs": ["http://a/x.h5", "http://b/x.h5"]}}, "two of them are called x.h5"),
        ({"points": 0}, "max_points"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_the_file(tmp_path, more, why):
    file = written(tmp_path, **more)
    with pytest.raises(UsageError) as caught:
        read_study_file(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_data_are_sent_by_url_or_uploaded(tmp_path):
    (tmp_path / "train.h5").write_bytes(b"12345")
    file = written(tmp_path, evaluation={"inputs": ["train.h5", "https://host/more.h5?x=1"]})
    given = read_study_file(file)
    here, there = given.in_place()["inputs"]
    assert here == {"name": "train.h5", "url": (tmp_path / "train.h5").resolve().as_uri(), "size": 5}
    assert there == {"name": "more.h5", "url": "https://host/more.h5?x=1"}
    assert given.uploaded(lambda path: f"http://store/{path.name}")["inputs"][0]["url"] == "http://store/train.h5"


# --- the sandbox ------------------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path):
    """A study with a script and a directory beside it."""
    (tmp_path / "run.sh").write_text("echo\n")
    (tmp_path / "run.sh").chmod(0o755)
    package = tmp_path / "package"
    (package / "deep").mkdir(parents=True)
    (package / "deep" / "model.py").write_text("x = 1\n")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "model.pyc").write_text("junk")
    (package / "loop").symlink_to(package)
    (package / "out").mkdir()
    (package / "out" / "results.json").write_text("{}")
    return written(tmp_path, evaluation={"sandbox": ["run.sh", "package"]})


def test_the_sandbox_holds_files_and_directories_and_no_results(code):
    given = read_study_file(code, leave_out=code.parent / "package" / "out")
    assert members(given) == {"run.sh": ("echo\n", 0o755), "package/deep/model.py": ("x = 1\n", 0o644)}


def test_the_archive_is_named_by_what_is_in_it(code):
    first = read_study_file(code)
    os.utime(code.parent / "run.sh", (1, 1))
    same = read_study_file(code)
    assert (same.archive, same.sandbox) == (first.archive, first.sandbox)
    assert first.archive.startswith("jobO.")
    assert first.archive.endswith(".tar")
    (code.parent / "run.sh").write_text("echo other\n")
    assert read_study_file(code).archive != first.archive


def test_two_files_of_one_name_are_refused(code):
    file = written(code.parent, evaluation={"sandbox": ["run.sh", "package/../run.sh"]})
    with pytest.raises(UsageError, match=r"two of them are called run\.sh"):
        read_study_file(file)


# --- a study as text and plots ----------------------------------------------------------------------------


def event(time, event, **more):
    return json.dumps({"time": time, "level": "info", "source": "s", "event": event, **more}) + "\n"


def test_slots_are_read_from_the_log_over_several_lives(tmp_path):
    log = tmp_path / "pilot.jsonl"
    timeline = Timeline(log)
    assert timeline.read() == []
    log.write_text(
        event(100, "pilot starts")
        + event(102, "evaluation started", point="1", slot=0, device="cpu", attempt=1)
        + event(103, "intermediate", point="1", step=4, loss=0.5)
        + event(103, "evaluation started", point="2", slot=1, device="cpu", attempt=1)
        + event(105, "evaluation ended", point="1", slot=0, loss=0.25, verdict="measured")
        + '{"time": 106, "eve'
    )
    timeline.read()
    assert [(one.point, one.slot, one.clock) for one in timeline.running] == [("2", 1, 103)]
    assert (timeline.ended[0].began, timeline.ended[0].ended, timeline.ended[0].loss) == (2, 5, 0.25)
    with log.open("a") as stream:
        stream.write("\n" + event(1000, "pilot starts") + event(1001, "evaluation started", point="2", slot=0))
    timeline.read()
    assert (timeline.ended[1].point, timeline.ended[1].ended, timeline.ended[1].verdict) == ("2", 5, "cut off")
    assert timeline.lives == [0, 5]
    assert timeline.seconds == 6
    assert [(one.slot, one.began) for one in timeline.running] == [(0, 6)]
    assert timeline.last("2").slot == 0


def told(count, tmp_path, **parameters):
    """A study's status as the server tells it, with ``count`` points: one failed, one waits, the rest have losses."""
    points = [
        {
            "id": str(number),
            "parameters": {"x": number / 7, **parameters},
            "loss": {1: 100000.0, 2: None}.get(number, 1 / number),
            "state": {1: "penalised", 2: "waiting", 3: "pruned"}.get(number, "evaluated"),
            "progress": [{"step": 1, "loss": 0.5, "time": 5.0}] if number == 4 else [],
            "attempts_left": 5,
            "job": None,
            "losses": [],
            "began": 1.0,
            "ended": 2.0,
        }
        for number in range(1, count + 1)
    ]
    return {
        "task": 1, "name": "parabola", "state": "running", "why": "", "max_points": count, "points": points,
        "jobs": [1], "generation": 3, "points_per_iteration": 0,
    }  # fmt: skip


def found(count, tmp_path, **parameters):
    given = parse_study(study(points=count))
    return results(told(count, tmp_path, **parameters), given, Timeline(tmp_path / "none"))


def test_a_failed_point_is_never_the_best(tmp_path):
    all_of_them = found(9, tmp_path)
    assert (all_of_them["best"]["id"], all_of_them["evaluated"], all_of_them["failed"]) == ("9", 7, 1)
    only_failed = found(2, tmp_path)
    assert (only_failed["best"], only_failed["evaluated"]) == (None, 0)
    assert "no point was evaluated" in end_lines(only_failed)


@pytest.mark.parametrize(("width", "height"), [(80, 23), (40, 12), (200, 60), (80, 8)])
@pytest.mark.parametrize("slots", [0, 2, 64])
def test_the_leaderboard_fits_its_window_and_loses_no_parameter(tmp_path, width, height, slots):
    long = {f"parameter_with_a_long_name_{n}": "value" * 3 for n in range(4)}
    running = [Stay(str(n), n, "cpu", 1, 10.0, 0.0, step=n, loss=0.5) for n in range(slots)]
    lines = live_lines(found(30, tmp_path, **long), running, 12.5, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    if width >= 80 and height >= 23:
        first = " ".join(" ".join(lines).split("parameters")[1].split("value" * 3 + "  ")[0].split())
        assert "parameter_with_a_long_name_0" in first
        assert any(line.startswith("best 0.0333") for line in lines)
        assert not slots or any("slot  running" in line for line in lines)


def test_the_end_tells_the_best_point_exactly_and_ten_in_all(tmp_path):
    lines = end_lines(found(30, tmp_path))
    assert lines[0] == f"best loss {1 / 30!r}, point 30"
    assert f"  x = {30 / 7}" in lines
    assert lines[-1] == "and 18 more"
    assert max(map(len, lines)) <= 80


def test_parameters_are_shown_compact_and_printable():
    assert parameters({"lr": 0.00012345678, "layers": 2, "kind": "a\x1b[0m"}) == "lr=0.00012346  layers=2  kind=a?[0m"
    assert parameters([1, {"lr": 1e-7}]) == "model 1  lr=1e-07"


def test_the_status_of_a_study_is_a_table(tmp_path):
    lines = study_lines(told(9, tmp_path))
    assert lines[0] == "task 1  running, 1 job"
    assert lines[1] == "parabola: 8 of 9 points evaluated, 1 waiting, 1 pruned, 1 failed"


def test_optuna_gets_the_points_under_their_numbers(tmp_path):
    trials = rebuilt(found(9, tmp_path)).trials
    assert {trial.number: trial.value for trial in trials if trial.value is not None} == {
        number: 1 / number for number in range(3, 10)
    }
    assert trials[4].intermediate_values == {1: 0.5}
    assert [trial.number for trial in trials if trial.state.name == "PRUNED"] == [3]
