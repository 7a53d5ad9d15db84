"""Studies on the embedded server: which points are made when, and what is kept of them."""

import sqlite3

import pytest

from tests.contract.embedded_client import running
from tests.contract.embedded_studies import Task, post, study


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def test_points_are_made_when_they_are_asked_for_until_there_are_enough(client):
    task = Task(client, study(4))
    assert task.known == {}
    job = task.job()
    assert job.events(3) == [f"{task.id}-{job.id}-0-{point}-5" for point in (1, 2, 3)]
    assert [one["loss"] for one in task.known.values()] == [None] * 3
    assert job.take(3) == ["4"]
    assert job.take(3) == []


def test_a_study_ends_when_each_point_has_its_loss(client):
    task = Task(client, study(3))
    job = task.job()
    job.evaluate(3, lambda x: x * x)
    status = task.status
    assert (status["state"], status["jobs"]) == ("finished", [job.id])
    assert status["counts"] == {
        "known": 3, "evaluated": 3, "running": 0, "waiting": 0, "penalised": 0, "pruned": 0
    }  # fmt: skip
    best = min(task.known.values(), key=lambda one: one["loss"])
    assert status["best"] == best
    assert job.end() == "finished"
    assert client.acquire() == []
    assert client.send("GET", "/local/studies").json() == {
        "studies": [{"task": task.id, "name": "one", "state": "finished"}]
    }


def test_every_loss_that_is_told_is_kept_and_the_last_one_counts(client):
    task = Task(client, study(1))
    job = task.job()
    (event,) = job.events()
    task.put(1, 0.5)
    task.put(1, 0.25)
    job.close(event)
    point = task.point(1)
    assert (point["loss"], task.known["1"]["loss"]) == (0.25, 0.25)
    assert [(one["loss"], one["job"]) for one in point["losses"]] == [(0.5, job.id), (0.25, job.id)]
    assert point["began"] <= point["losses"][0]["time"] <= point["ended"]


def test_a_loss_of_zero_is_a_loss(client):
    task = Task(client, study(1))
    task.put(task.job().take()[0], 0.0)
    assert (task.status["state"], task.status["best"]["loss"]) == ("finished", 0.0)


# --- generations (hpo-contract.md 10.9) -----------------------------------------------------------------


def test_a_generation_is_made_when_the_last_one_is_evaluated(client):
    task = Task(client, study(7, points_per_iteration=3))
    job = task.job()
    assert job.take(10) == ["1", "2", "3"]
    task.put(1, 0.1)
    task.put(2, 0.1)
    assert job.take(10) == []
    task.put(3, 0.1)
    assert job.take(10) == ["4", "5", "6"]
    for point in (4, 5, 6):
        task.put(point, 0.1)
    assert job.take(10) == ["7"]
    assert task.status["generation"] == 3


def test_the_next_generation_is_filled_up_when_few_points_are_unevaluated(client):
    task = Task(client, study(20, points_per_iteration=5, min_unevaluated_points=2))
    job = task.job()
    assert len(job.take(20)) == 5
    task.put(1, 0.1)
    task.put(2, 0.1)
    assert job.take(20) == []
    task.put(3, 0.1)
    assert job.take(20) == ["6", "7", "8"]


# --- the optimiser --------------------------------------------------------------------------------------


def parameters(task):
    return [one["parameters"] for one in task.known.values()]


def test_the_same_seed_makes_the_same_points_however_many_are_asked_for(client):
    first, second = (Task(client, study(6, study=name)) for name in ("one", "two"))
    jobs = {one.definition["taskID"]: one for one in (first.job(), second.job())}
    jobs[first.id].take(6)
    for _ in range(6):
        jobs[second.id].take()
    other = Task(client, study(6, study="three", steering={"builtin": "random", "seed": 2}))
    other.job().take(6)
    assert parameters(first) == parameters(second)
    assert parameters(first) != parameters(other)
    assert len({one["x"] for one in parameters(first)}) == 6


def learnt(data, *, restart):
    """The points of a TPE study, made on one server or on two."""
    posted = study(16, steering={"builtin": "tpe", "seed": 5, "startup_points": 4})
    with running(data) as client:
        task = Task(client, posted)
        task.job().evaluate(8 if restart else 16, lambda x: (x - 0.3) ** 2)
        found = parameters(task)
    if restart:
        with running(data) as client:
            job = Task(client, posted).job()
            job.evaluate(8, lambda x: (x - 0.3) ** 2)
            found = parameters(job.task)
    return found


def test_a_restart_changes_nothing_of_what_tpe_makes(tmp_path):
    assert learnt(tmp_path / "a", restart=False) == learnt(tmp_path / "b", restart=True)


def test_tpe_comes_near_the_best_point(client):
    task = Task(client, study(40, steering={"builtin": "tpe", "seed": 3}))
    task.job().evaluate(40, lambda x: (x - 0.3) ** 2)
    early, late = ([abs(one["x"] - 0.3) for one in part] for part in (parameters(task)[:10], parameters(task)[30:]))
    assert sorted(late)[5] < sorted(early)[5] / 2


def test_points_that_run_are_known_to_tpe(client):
    task = Task(client, study(18, steering={"builtin": "tpe", "seed": 3}))
    job = task.job()
    job.evaluate(10, lambda x: (x - 0.3) ** 2)
    job.take(8)
    running = [one["x"] for one in parameters(task)[10:]]
    assert len({round(x, 3) for x in running}) == 8


def test_each_method_of_a_space_gives_values_of_its_kind(client):
    space = {
        "categorical": {"categories": ["adam", None, [1, 2]]},
        "uniformint": {"low": 3, "high": 5},
        "quniform": {"low": 0, "high": 1, "q": 0.25},
        "quniformint": {"low": 1, "high": 10, "q": 3},
        "loguniform": {"low": 1e-5, "high": 0.1},
        "qloguniform": {"low": 8, "high": 1000, "q": 8},
        "normal": {"mu": 100, "sigma": 1},
        "qnormal": {"mu": 0, "sigma": 4, "q": 2},
        "lognormal": {"mu": 0, "sigma": 1},
        "qlognormal": {"mu": 3, "sigma": 1, "q": 5},
    }
    space = {method: {"method": method, "dimension": dimension} for method, dimension in space.items()}
    for builtin in ("random", "tpe"):
        steering = {"builtin": builtin, "startup_points": 3, "seed": 1}
        task = Task(client, study(12, study=builtin, search_space=space, steering=steering))
        job = task.job()
        for point in range(1, 13):
            job.take()
            task.put(point, point)
        for one in parameters(task):
            assert one["categorical"] in ("adam", None, [1, 2])
            assert one["uniformint"] in (3, 4, 5)
            assert isinstance(one["uniformint"], int)
            assert one["quniform"] in (0, 0.25, 0.5, 0.75, 1)
            assert one["quniformint"] in (1, 4, 7, 10)
            assert 1e-5 <= one["loguniform"] <= 0.1
            assert 8 <= one["qloguniform"] <= 1000
            assert one["qloguniform"] % 8 == 0
            assert 94 < one["normal"] < 106
            assert one["qnormal"] % 2 == 0
            assert one["lognormal"] > 0
            assert one["qlognormal"] % 5 == 0


def test_a_grid_is_gone_through_once_and_then_the_study_ends(client):
    space = {
        "n": {"method": "uniformint", "dimension": {"low": 1, "high": 2}},
        "opt": {"method": "categorical", "dimension": {"categories": ["a", "b"]}},
    }
    known = [[{"n": 2, "opt": "a"}, 0.5]]
    posted = study(100, search_space=space, steering={"builtin": "grid", "seed": 4}, initial_points=known)
    task = Task(client, posted)
    job = task.job()
    assert len(job.take(100)) == 3
    found = [(one["n"], one["opt"]) for one in parameters(task)]
    assert found[0] == (2, "a")
    assert sorted(found) == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    for point in (2, 3, 4):
        task.put(point, 1)
    assert (task.status["state"], task.status["max_points"]) == ("finished", 4)


def test_points_that_the_study_brings_come_first_and_known_losses_count(client):
    task = Task(client, study(3, initial_points=[[{"x": 0.5}, 0.25], [{"x": 0.75}, None]]))
    assert (task.status["counts"]["evaluated"], task.status["best"]["loss"]) == (1, 0.25)
    job = task.job()
    assert job.take() == ["2"]
    assert task.known["2"]["parameters"] == {"x": 0.75}
    assert job.take(5) == ["3"]


# --- submission and restart -----------------------------------------------------------------------------


def test_a_study_survives_a_restart(tmp_path):
    with running(tmp_path) as client:
        task = Task(client, study(3))
        job = task.job()
        first, second = job.events(2)
        job.close(first, 0.5)
        task.report(2, s1=0.75)
        before = task.status
    with running(tmp_path) as client:
        task.client = job.client = client
        assert task.status == before
        job.close(second, 0.25)
        job.evaluate(1, lambda x: x)
        assert task.status["state"] == "finished"


def test_the_same_study_is_not_made_twice_and_can_grow(client):
    task = Task(client, study(2))
    task.job().evaluate(2, lambda x: x)
    assert Task(client, study(2)).id == task.id
    assert task.status["state"] == "finished"
    assert Task(client, study(3)).id == task.id
    assert task.status["state"] == "running"
    for posted, line in (
        (study(2), "max_points: the study has 3 already, and can only grow"),
        (study(3, attempts=1), "study: another study is named one: choose another name, or another data directory"),
        (study(3, study="two", task_id=task.id), f"task_id: there is a study with task {task.id} already"),
        ({"study": "two"}, "search_space: must be an object"),
    ):
        answer = post(client, posted)
        assert (answer.status_code, answer.json()) == (400, {"error": line})


def test_unknown_studies_and_points_are_not_found(client):
    task = Task(client, study(1))
    progress = {"steps": [{"step": 1, "loss": 0.5}]}
    assert client.send("GET", "/local/studies/99").status_code == 404
    for path in (f"{task.id}/points/7", "99/points/1"):
        answer = client.send("POST", f"/local/studies/{path}/progress", json=progress)
        assert answer.status_code == 404, answer.text


def test_data_of_a_server_without_studies_can_be_used(tmp_path):
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute(
            "CREATE TABLE ranges (id INTEGER PRIMARY KEY, jobset INTEGER NOT NULL, task INTEGER NOT NULL,"
            " file INTEGER NOT NULL, process INTEGER NOT NULL, last INTEGER NOT NULL, attempt INTEGER NOT NULL,"
            " about TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'ready', job INTEGER, error INTEGER, dialog TEXT)"
        )
    connection.close()
    with running(tmp_path) as client:
        assert Task(client, study(1)).job().take() == ["1"]
