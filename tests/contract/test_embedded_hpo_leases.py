"""Points on the embedded server that are given back, given up, or shared by many pilots at once."""

import threading

import pytest

from tests.contract.embedded_client import Client, running, until
from tests.contract.embedded_studies import Task, grid, study

ENDS = {"finished": {}, "failed": {"pilot_error_code": 1201}}


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_point_that_an_ended_job_leaves_is_ready_at_once_with_one_attempt_less(client, state):
    task = Task(client, grid(2))
    first = task.job()
    first.events(1)
    assert (task.point(1)["state"], task.point(1)["job"]) == ("leased", first.id)
    first.end(state, **ENDS[state])
    point = task.point(1)
    assert (point["state"], point["attempts_left"], point["job"]) == ("waiting", 4, None)
    second = task.job()
    assert second.events(1) == [f"{task.id}-{second.id}-0-1-4"]


def test_the_points_of_a_pilot_that_goes_silent_go_to_others(tmp_path):
    with running(tmp_path, lease_s=0.4) as client:
        task = Task(client, grid(2))
        silent = task.job()
        assert silent.take(2) == ["1", "2"]
        until(lambda: task.status["counts"]["waiting"] == 2, "the end of the lease")
        assert client.status(silent.id)["state"] == "failed"
        assert {one["attempts_left"] for one in task.status["points"]} == {4}
        assert task.job().take(2) == ["1", "2"]


def test_a_pilot_that_is_heard_of_keeps_its_points_beyond_the_lease(tmp_path):
    with running(tmp_path, lease_s=0.4) as client:
        task = Task(client, grid(1))
        talking, silent = task.job(), Task(client, grid(1, study="two")).job()
        talking.events()
        silent.events()

        def lost():
            talking.say("running")
            return silent.task.point(1)["state"] == "waiting"

        until(lost, "the end of the other's lease")
        assert task.point(1)["state"] == "leased"


def test_after_its_last_attempt_a_point_gets_the_penalty(client):
    task = Task(client, grid(2, attempts=2))
    for left in (1, 1):
        job = task.job()
        job.events(1)
        job.end("failed", pilot_error_code=1201)
        assert task.point(1)["attempts_left"] == left
    point = task.point(1)
    assert (point["state"], point["loss"], task.known["1"]["loss"]) == ("penalised", 1e5, 1e5)
    assert [one["loss"] for one in point["losses"]] == [1e5]
    assert task.status["best"] is None
    job = task.job()
    assert job.take(2) == ["2"]
    task.put(2, 7)
    status = task.status
    assert (status["state"], status["counts"]["penalised"], status["best"]["id"]) == ("finished", 1, "2")


def test_a_study_of_which_no_point_could_be_evaluated_has_failed(client):
    task = Task(client, grid(1, attempts=1))
    job = task.job()
    job.events()
    job.end("failed", pilot_error_code=1201)
    assert (task.status["state"], task.status["why"]) == ("failed", "no point could be evaluated")


def test_a_measured_loss_outlives_the_attempts(client):
    task = Task(client, grid(1, attempts=1))
    job = task.job()
    job.events()
    task.put(1, 0.5)
    job.end("failed", pilot_error_code=1201)
    assert (task.point(1)["state"], task.known["1"]["loss"]) == ("evaluated", 0.5)
    assert client.acquire() == []


def test_an_event_that_is_told_to_have_failed_is_not_tried_again(client):
    task = Task(client, grid(2))
    job = task.job()
    first, _ = job.events(2)
    job.close(first, status="failed")
    assert task.point(1)["state"] == "penalised"
    job.end()
    assert task.job().take(2) == ["2"]


def test_a_generation_ends_with_a_point_that_was_given_up(client):
    task = Task(client, study(4, points_per_iteration=2, attempts=1))
    job = task.job()
    job.events(2)
    task.put(1, 0.5)
    job.end("failed", pilot_error_code=1201)
    assert task.job().take(2) == ["3", "4"]


# --- many at once ---------------------------------------------------------------------------------------


def test_many_pilots_share_a_study_and_each_point_is_given_once(tmp_path):
    with running(tmp_path) as client:
        task = Task(client, study(40, steering={"builtin": "tpe", "seed": 1, "startup_points": 5}))
        jobs = [task.job() for _ in range(8)]
        given = [[] for _ in jobs]

        def work(job, own):
            client = Client(task.client.url)
            job.client = client
            while taken := job.take():
                own += taken
                path = f"/idds/hpo/{task.id}/null/{taken[0]}/{int(taken[0]) / 7}"
                assert client.send("PUT", path).status_code == 200
            client.session.close()

        threads = [threading.Thread(target=work, args=pair) for pair in zip(jobs, given, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # None of them was told that there are no points as long as there were.
        assert sorted(int(point) for own in given for point in own) == list(range(1, 41))
        assert task.status["state"] == "finished"
        assert all(len(one["losses"]) == 1 for one in task.status["points"])
        assert len({one["parameters"]["x"] for one in task.status["points"]}) == 40


# --- segments -------------------------------------------------------------------------------------------


def test_each_segment_has_its_points_and_its_jobs(client):
    initial = [[[1, {"x": 0.5}], 0.25]]
    task = Task(client, study(2, segments=["a", "b"], initial_points=initial))
    jobs = [task.job() for _ in range(3)]
    assert sorted(job.arguments["--segmentID"] for job in jobs) == ["0", "0", "1"]
    second = next(job for job in jobs if job.arguments["--segmentID"] == "1")
    assert second.take(5, segment_id=1) == ["2"]
    assert second.take(5, segment_id=1) == []
    assert second.take(5, segment_id=7) == []
    first = next(job for job in jobs if job is not second)
    assert first.take(1, segment_id=0) == ["3"]
    assert first.take(5) == ["4"]
    assert [one["parameters"][0] for one in task.known.values()] == [1, 1, 0, 0]
    assert task.status["max_points"] == 4


def test_segments_have_generations_of_their_own(client):
    task = Task(client, study(4, segments=["a", "b"], points_per_iteration=2))
    job = task.job()
    assert job.take(9, segment_id=0) == ["1", "2"]
    assert job.take(9, segment_id=1) == ["3", "4"]
    task.put(1, 1)
    task.put(2, 1)
    assert job.take(9, segment_id=1) == []
    assert job.take(9, segment_id=0) == ["5", "6"]


# --- pruning --------------------------------------------------------------------------------------------


def pruned(task, steps, *points):
    """Report the same losses for some points, and tell the last as their loss."""
    for point in points:
        assert task.report(point, **steps) is False
        task.put(point, list(steps.values())[-1])


def test_what_is_worse_than_the_median_is_pruned_after_the_warm_up(client):
    task = Task(client, study(9, pruner={"kind": "median", "warmup_steps": 2, "startup_points": 3}))
    task.job().take(9)
    for point, last in ((1, 0.5), (2, 0.7)):
        task.report(point, s1=0.1, s2=last)
        task.put(point, last)
    assert task.report(4, s2=0.9) is False  # two are too few to know
    task.report(3, s1=0.1, s2=0.6)
    task.put(3, 0.6)
    assert task.report(5, s1=0.9) is False
    assert task.report(5, s2=0.61) is True
    assert task.report(6, s2=0.6) is False
    assert task.report(7, s1=0.55, s2=0.9) is False  # its best so far counts
    assert task.report(8, s3=0.9) is False  # nobody has come so far
    assert task.report(5, s3=0.1) is True  # said once, said for good
    task.put(5, 0.61)
    point = task.point(5)
    assert (point["state"], point["loss"]) == ("pruned", 0.61)
    assert [(one["step"], one["loss"]) for one in point["progress"]] == [(1, 0.9), (2, 0.61), (3, 0.1)]
    assert task.status["counts"]["pruned"] == 1


def test_successive_halving_lets_the_best_quarter_go_on(client):
    task = Task(client, study(12, pruner={"kind": "halving", "startup_points": 4}))
    task.job().take(12)
    for point in range(1, 9):
        task.report(point, s1=point / 10)
    assert task.report(9, s1=0.15) is False  # the second of nine
    assert task.report(10, s1=0.35) is True
    for point in range(1, 9):
        task.report(point, s4=1 - point / 10)
    assert task.report(9, s4=0.25) is False
    assert task.report(9, s5=9) is False  # what counts is the loss on the rung
    assert task.report(11, s1=0.05, s4=0.9) is True


def test_nothing_is_pruned_without_a_pruner(client):
    task = Task(client, study(6))
    task.job().take(6)
    for point in range(1, 6):
        task.report(point, s1=0.1)
        task.put(point, 0.1)
    assert task.report(6, s1=99) is False


def test_a_pruned_point_whose_loss_was_not_told_begins_anew(client):
    task = Task(client, study(3, pruner={"kind": "median", "startup_points": 1}))
    first = task.job()
    first.take(2)
    task.report(1, s1=0.1)
    task.put(1, 0.1)
    assert task.report(2, s1=0.5) is True
    first.end("failed", pilot_error_code=1201)
    assert task.job().take(2) == ["1", "2"]  # the first has its loss, and waits for being closed
    task.put(2, 0.05)
    assert task.point(2)["state"] == "evaluated"


# --- where ours is better than iDDS 2.6.21 (hpo-contract.md 2.6) -------------------------------------------


def idds(client, method, path):
    answer = client.send(method, f"/idds/hpo/{path}")
    return answer.status_code, answer.headers.get("ExceptionClass") or answer.json()


def test_what_cannot_be_stored_is_refused_by_its_reason(client):
    task = Task(client, study(2))
    task.job().take(2)
    for loss in ("nan", "inf", "-inf", "1e999"):
        assert idds(client, "PUT", f"{task.id}/null/1/{loss}") == (400, "BadRequest")
    for point in ("3", "x", "-1", "1" * 30):
        assert idds(client, "PUT", f"{task.id}/null/{point}/0.5") == (404, "NoObject")
    assert idds(client, "PUT", f"{'9' * 5000}/null/1/0.5") == (400, "BadRequest")
    assert {one["loss"] for one in task.known.values()} == {None}


def test_status_and_limit_choose_points(client):
    task = Task(client, study(3))
    task.job().take(3)
    task.put(2, 0.5)

    def found(status, limit):
        return [one["id"] for one in idds(client, "GET", f"{task.id}/null/null/{status}/{limit}")[1]]

    assert found("New", "null") == found("0", "null") == ["1", "3"]
    assert found("Available", "null") == found("2", "null") == ["2"]
    assert found("New", "1") == ["1"]
    assert found("null", "2") == ["1", "2"]
    assert idds(client, "GET", f"{task.id}/null/null/Strange/null") == (400, "BadRequest")


def test_the_relay_takes_arguments_by_place_and_by_name(client):
    task = Task(client, study(1))
    task.job().take()

    def relay(command, **fields):
        return client.call("idds/relay_idds_command", command_name=command, **fields)

    placed = relay("update_hyperparameter", args=f'[{task.id}, null, "1", 0.5]', json_outputs=True)
    assert placed["data"] == {"data": {"message": "update successfully", "status": 0}, "error": None, "status": 0}
    named = relay("get_hyperparameters", kwargs=f'{{"workload_id": {task.id}, "request_id": null, "id": "1"}}')
    assert named["data"] == [task.known["1"]]
    assert named["data"][0]["loss"] == 0.5
    refused = relay("update_hyperparameter", args=f'[{task.id}, null, "9", 0.5]')
    assert refused["success"] is False
    assert "NoObject" in refused["message"]
    assert relay("get_hyperparameters", kwargs="[")["success"] is False
