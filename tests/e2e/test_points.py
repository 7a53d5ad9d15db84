"""Hyper-parameter jobs from end to end: `pilot run` evaluates the points of a study of `pilot serve`."""

import io
import json
import signal
import tarfile

import pytest

from tests.lab import Serve, dump, until
from tests.studies import ECHO, PATIENCE, ended, jobs, look, losses, points, python, study, submit


@pytest.fixture
def evaluate(run):
    """Starts a pilot that leaves soon when there are no more points."""

    def start(*arguments, **environment):
        return run(*arguments, environment={**PATIENCE, "PILOT_SLOTS": "2", **environment})

    return start


def log_members(serve, status):
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(status["log"]))) as tar:
        return {one.name.partition("/")[2]: tar.extractfile(one).read().decode() for one in tar if one.isfile()}


def events(pilot, name):
    return [line for line in pilot.log.read_text().splitlines() if f" {name} " in line or f"event={name}" in line]


def test_a_study_is_evaluated_to_its_end(serve, evaluate):
    task = submit(serve, study(points=6))
    pilot = evaluate()
    assert pilot.wait() == 0
    found = ended(serve, task)
    assert found["state"] == "finished", dump(found)
    assert found["counts"]["evaluated"] == 6
    for point in found["points"]:
        assert point["losses"]
        assert [one["loss"] for one in point["losses"]] == [pytest.approx(point["parameters"]["x"] ** 2)]
    assert [status["state"] for status in jobs(serve, task)] == ["finished"] * len(found["jobs"])


def test_what_evaluations_print_is_in_the_log(serve, evaluate):
    task = submit(serve, study(points=2, command="echo hello; echo trouble >&2; " + python(ECHO)))
    assert evaluate().wait() == 0
    members = log_members(serve, jobs(serve, task)[0])
    assert members["points/1.1/stdout"] == "hello\n"
    assert members["points/1.1/stderr"] == "trouble\n"


def test_an_evaluation_finds_what_the_contract_promises(serve, evaluate):
    names = "HPO_SAMPLE_ID HPO_TASK_ID HPO_SLOT HPO_ATTEMPT HPO_SEED HPO_PROGRESS_FILE PandaID PanDA_TaskID"
    show = (
        f"for one in {names} PILOT_EXEC_ITERATION_COUNT CUDA_VISIBLE_DEVICES; do printenv $one | sed s/^/$one=/; done"
    )
    task = submit(serve, study(points=1, command=f"{show}; pwd; ls; cat hpo_context.json; " + python(ECHO)))
    assert evaluate().wait() == 0
    status = jobs(serve, task)[0]
    text = log_members(serve, status)["points/1.1/stdout"]
    assert f"HPO_TASK_ID={task}\n" in text
    assert "HPO_SAMPLE_ID=1\n" in text
    assert f"PandaID={status['id']}\n" in text
    assert "/workDir\n" in text
    assert "input.json\n" in text
    context = json.loads(text[text.index("{") :])
    assert (context["sample_id"], context["attempt"], context["resume"]) == ("1", 1, False)
    assert f"HPO_SEED={context['seed']}\n" in text


def test_a_job_without_a_point_ends_finished(serve, evaluate):
    task = submit(serve, study(points=1))
    first = evaluate("--max-jobs", "1", PILOT_LINGER="0", PILOT_STEERING_WAIT="0")
    assert first.wait() == 0
    serve.submit_panda(**as_idle_job(serve, task))
    second = evaluate("--max-jobs", "1")
    assert second.wait() == 0
    assert [status["state"] for status in jobs(serve, task)] == ["finished", "finished"]
    assert "evaluation started" not in second.log.read_text()


def as_idle_job(serve, task):
    """The definition of the study's first job, as a job that comes too late."""
    given = [one for one in serve.calls("acquire_jobs") if one["answer"] and '"isHPO"' in one["answer"]]
    fields = json.loads(given[0]["answer"])["data"]["jobs"][0]
    return {key: value for key, value in fields.items() if key != "PandaID"}


def test_a_point_that_has_its_loss_is_closed_without_being_evaluated(serve, evaluate):
    given = [[{"x": x}, None] for x in (0.1, 0.2, 0.3)]
    task = submit(serve, study(points=3, initial_points=given))
    serve.call("PUT", f"/idds/hpo/{task}/null/2/0.125")
    pilot = evaluate()
    assert pilot.wait() == 0
    found = ended(serve, task)
    assert found["counts"]["evaluated"] == 3, dump(found)
    assert losses(serve, task)["2"] == [0.125]
    assert "the point was evaluated before" in pilot.log.read_text()
    assert [status["state"] for status in jobs(serve, task)] == ["finished"]


# --- failures (hpo-contract.md 4.5, 10.4) ---------------------------------------------------------------

FIRST_FAILS = "if test $HPO_SAMPLE_ID = 1; then {}; fi; "


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("exit 3", "exited with 3"),
        ("exit 0", "left no output.json"),
        ("echo '{\"loss\": NaN}' > output.json; exit 0", "not a finite number"),
        ("kill -9 $$", "signal 9"),
    ],
    ids=["crash", "no output", "nan", "killed"],
)
def test_a_point_that_fails_is_tried_again_and_left_to_the_server(serve, evaluate, what, why):
    posted = study(points=3, command=FIRST_FAILS.format(what) + python(ECHO), attempts=1)
    task = submit(serve, posted)
    pilot = evaluate("--max-jobs", "1")
    assert pilot.wait() == 0
    status = jobs(serve, task)[0]
    assert status["state"] == "finished", dump(status)
    assert pilot.log.read_text().count("evaluation started point=1 ") == 2
    assert why in pilot.log.read_text()
    told = losses(serve, task)
    assert told["2"]
    assert told["3"]
    assert points(serve, task)["1"]["state"] == "penalised"  # by the server, after the last attempt
    updates = [one["body"] for one in serve.calls("update_single_event_range")]
    assert not any('"failed"' in body or '"fatal"' in body for body in updates)


@pytest.mark.parametrize(
    ("message", "state"),
    [("diverged", "penalised"), ("fatal: no such optimizer", "evaluated")],
    ids=["refused", "fatal"],
)
def test_an_evaluation_that_refuses_its_point_is_not_tried_again_here(serve, evaluate, message, state):
    answer = f'echo \'{{"status": 2, "message": "{message}"}}\' > output.json; exit 0'
    task = submit(serve, study(points=2, command=FIRST_FAILS.format(answer) + python(ECHO), attempts=1))
    pilot = evaluate("--max-jobs", "1")
    assert pilot.wait() == 0
    status = jobs(serve, task)[0]
    assert status["state"] == "finished", dump(status)
    assert pilot.log.read_text().count("evaluation started point=1 ") == 1
    first = points(serve, task)["1"]
    assert (first["state"], first["loss"]) == (state, 1e5)


def test_an_evaluation_that_takes_too_long_is_stopped_and_left(serve, evaluate):
    slow = FIRST_FAILS.format("sleep 600") + python(ECHO)
    task = submit(serve, study(points=2, command=slow, attempts=1, evaluation={"timeout_seconds": 1}))
    pilot = evaluate("--max-jobs", "1")
    assert pilot.wait() == 0
    text = pilot.log.read_text()
    assert "the evaluation took longer than 1 s" in text
    assert text.count("evaluation started point=1 ") == 1
    assert losses(serve, task)["2"]
    assert jobs(serve, task)[0]["state"] == "finished"
    assert points(serve, task)["1"]["state"] == "penalised"


def test_where_every_evaluation_fails_the_job_fails_with_the_first_reason(serve, evaluate):
    task = submit(serve, study(points=20, command="echo no module named foo >&2; exit 7"))
    pilot = evaluate("--max-jobs", "1")
    assert pilot.wait() == 0
    status = jobs(serve, task)[0]
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1305), dump(status)
    assert "no module named foo" in status["pilot_error_diag"]
    assert pilot.log.read_text().count("evaluation started") <= 5
    assert not any(losses(serve, task).values())


def test_a_slot_without_memory_is_one_less_and_the_point_is_evaluated(serve, evaluate, tmp_path):
    flag = tmp_path / "second"
    crowded = (
        f"if test $HPO_SAMPLE_ID = 2 && mkdir {flag}; then echo 'CUDA out of memory.' >&2; exit 1; fi; sleep 0.3; "
    )
    task = submit(serve, study(points=4, command=crowded + python(ECHO)))
    pilot = evaluate("--max-jobs", "1", PILOT_POINT_RETRIES="0")
    assert pilot.wait() == 0
    text = pilot.log.read_text()
    assert "out of memory: 1 at a time from now on" in text
    assert ended(serve, task)["counts"]["evaluated"] == 4
    assert all(len(told) == 1 for told in losses(serve, task).values())


def test_a_slot_whose_evaluations_fail_alone_is_set_aside(serve, evaluate):
    bad = "if test $HPO_SLOT = 1; then sleep 0.1; exit 9; fi; sleep 0.2; "
    task = submit(serve, study(points=8, command=bad + python(ECHO)))
    pilot = evaluate("--max-jobs", "1", PILOT_SLOTS="2")
    assert pilot.wait() == 0
    assert "slot set aside slot=1" in pilot.log.read_text()
    found = ended(serve, task)
    assert found["counts"]["evaluated"] == 8
    assert found["counts"]["penalised"] == 0


# --- outputs, segments, images, limits --------------------------------------------------------------------


def test_metrics_of_each_point_are_outputs_of_the_job(serve, evaluate):
    leave = "mkdir m; echo $HPO_SAMPLE_ID > m/id; "
    task = submit(serve, study(points=3, command=leave + python(ECHO), evaluation={"metrics": "m"}))
    assert evaluate("--max-jobs", "1").wait() == 0
    status = jobs(serve, task)[0]
    assert status["state"] == "finished", dump(status)
    outputs = {one["name"]: one["url"] for one in status["outputs"]}
    assert sorted(name.rsplit("_", 1)[1] for name in outputs) == ["0", "1", "2"]
    found = set()
    for url in outputs.values():
        with tarfile.open(fileobj=io.BytesIO(serve.fetch(url))) as tar:
            member = next(one for one in tar if one.isfile())
            found.add((member.name, tar.extractfile(member).read()))
    assert found == {(f"m_{n}/id", b"%d\n" % n) for n in (1, 2, 3)}


def test_a_segmented_study_gives_each_job_the_points_of_its_segment(serve, evaluate):
    look_at = "import json; model, point = json.load(open('input.json')); x = point['x'];"
    write = " json.dump({'loss': model + x * x}, open('output.json', 'w'))"
    task = submit(serve, study(points=2, command=python(look_at + write), segments=["a", "b", "c"]))
    assert evaluate("--max-jobs", "3").wait() == 0
    found = ended(serve, task)
    assert found["counts"]["evaluated"] == 6, dump(found)
    assert sorted(point["parameters"][0] for point in found["points"]) == [0, 0, 1, 1, 2, 2]
    for point in found["points"]:
        assert int(point["loss"]) == point["parameters"][0]
    asked = [json.loads(one["body"]) for one in serve.calls("acquire_event_ranges")]
    assert {one["segment_id"] for one in asked} == {0, 1, 2}


def test_training_data_and_sandbox_lie_beside_the_point(serve, evaluate, tmp_path):
    with tarfile.open(tmp_path / "jobO.1.tar", "w") as tar:
        content = b"import json; print(open(json.load(open('input_ds.json'))[0]).read())"
        member = tarfile.TarInfo("show.py")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with (tmp_path / "jobO.1.tar").open("rb") as file:
        url = f"{serve.url}/api/v1/file_server/upload_cache_file"
        answer = serve.session.post(url, files={"file": file}, headers={"Accept": "application/json"})
        assert answer.json()["success"], answer.text
    url = serve.store("train.csv", b"1,2,3")
    data = [{"name": "train.csv", "url": url, "size": 5, "checksum": None}]
    task = submit(serve, study(points=2, command="python3 show.py; " + python(ECHO)), "jobO.1.tar", data)
    assert evaluate("--max-jobs", "1").wait() == 0
    assert log_members(serve, jobs(serve, task)[0])["points/2.1/stdout"] == "1,2,3\n"


@pytest.mark.parametrize(
    ("own", "state", "code"),
    [("", "failed", 1360), ("*/analysis:*", "finished", 0)],
    ids=["foreign image", "own image"],
)
def test_a_job_whose_image_cannot_be_had_is_refused_before_a_point_is_taken(serve, evaluate, own, state, code):
    task = submit(serve, study(points=1, evaluation={"image": "hub.example.org/analysis:7"}))
    assert evaluate("--max-jobs", "1", **({"PILOT_OWN_IMAGES": own} if own else {})).wait() == 0
    status = jobs(serve, task)[0]
    assert (status["state"], status["pilot_error_code"] or 0) == (state, code), dump(status)
    assert bool(serve.calls("acquire_event_ranges")) == (state == "finished")


def test_no_point_is_taken_that_cannot_end(serve, evaluate):
    task = submit(serve, study(points=50, command="sleep 1; " + python(ECHO)))
    pilot = evaluate("--max-jobs", "1", PILOT_DEADLINE="6", PILOT_SLOTS="1")
    assert pilot.wait() == 0
    assert "are left, and points take" in pilot.log.read_text()
    status = jobs(serve, task)[0]
    assert status["state"] == "finished", dump(status)
    found = points(serve, task)
    assert all(one["state"] in ("evaluated", "waiting") for one in found.values())
    assert all(one["attempts_left"] == 5 for one in found.values())


def test_losses_go_through_the_servers_relay_where_idds_is_a_stranger(serve, evaluate):
    task = submit(serve, study(points=2))
    foreign = as_first_job(serve, task)
    foreign["jobPars"] = foreign["jobPars"].replace(f"--iddsURL {serve.url}", "--iddsURL https://idds.invalid:443")
    serve.submit_panda(**foreign)
    pilot = evaluate("--max-jobs", "1")
    assert pilot.wait() == 0
    assert "the server's relay" in pilot.log.read_text()
    assert ended(serve, task)["counts"]["evaluated"] == 2
    assert not [one for one in serve.requests() if one["path"].startswith("/idds/hpo")]


def as_first_job(serve, task):
    """The definition of a job of the study, taken away from whoever would get it."""
    given = serve.call("POST", "/api/v1/pilot/acquire_jobs", json={"site_name": "LOCAL"})["data"]["jobs"][0]
    final = {"job_id": given["PandaID"], "job_status": "failed", "pilot_error_code": 1201}
    serve.call("POST", "/api/v1/pilot/update_job", json=final, headers={"Accept": "application/json"})
    serve.ended(given["PandaID"])
    return {key: value for key, value in given.items() if key not in ("PandaID", "StatusCode", "nSent")}


def test_an_argument_that_is_not_known_is_refused_by_its_name(serve, evaluate):
    task = submit(serve, study(points=1))
    strange = as_first_job(serve, task)
    serve.submit_panda(**{**strange, "jobPars": strange["jobPars"] + " --frobnicate 3"})
    assert evaluate("--max-jobs", "1").wait() == 0
    refused = [one for one in jobs(serve, task) if "--frobnicate" in (one["pilot_error_diag"] or "")]
    assert len(refused) == 1


# --- pruning ----------------------------------------------------------------------------------------------


def test_an_evaluation_that_does_worse_than_the_others_is_pruned(serve, evaluate):
    steps = (
        "import json, os, time; p = int(os.environ['HPO_SAMPLE_ID']);"
        " f = open('progress.jsonl', 'w', buffering=1);"
        " [(f.write(json.dumps({'step': n, 'loss': p}) + chr(10)), time.sleep(0.2 if p < 6 else 1))"
        " for n in range(1, 6 if p < 6 else 100) if not os.path.exists('stop')];"
        " json.dump({'loss': p}, open('output.json', 'w')) if not os.path.exists('stop') else None"
    )
    posted = study(points=6, command=python(steps), pruner={"kind": "median", "startup_points": 3})
    task = submit(serve, posted)
    pilot = evaluate("--max-jobs", "1", PILOT_SLOTS="1")
    assert pilot.wait() == 0
    found = points(serve, task)
    assert found["6"]["state"] == "pruned", dump(found)
    assert found["6"]["loss"] == 6
    assert len(found["6"]["progress"]) < 99
    assert look(serve, task)["best"]["id"] == "1"
    assert " intermediate point=6 step=1" in pilot.log.read_text()


# --- stops, checkpoints, and what comes after -------------------------------------------------------------

STEPS = (
    "import json, os, time; from pathlib import Path; at = Path('ckpt/step');"
    " at.parent.mkdir(exist_ok=True); n = int(at.read_text()) if at.exists() else 0;"
    " p = os.environ['HPO_SAMPLE_ID']; log = open('{log}', 'a', buffering=1)\n"
    "while n < 20 and not os.path.exists('stop'):\n"
    "    time.sleep(0.1); n += 1; log.write(p + chr(10)); at.write_text(str(n))\n"
    "if n == 20: json.dump({{'loss': 0.5}}, open('output.json', 'w'))"
)
"""Twenty steps of a tenth of a second, each in a log of its own; goes on from its checkpoint, stops when told."""


def steps_of(log):
    """Steps computed in all, by point."""
    lines = log.read_text().split()
    return {point: lines.count(point) for point in set(lines)}


def test_an_evaluation_that_is_taken_away_goes_on_elsewhere_from_its_checkpoint(serve, evaluate, tmp_path):
    log, script = tmp_path / "steps", tmp_path / "steps.py"
    script.write_text(STEPS.format(log=log))
    posted = study(points=2, command=f"trap '' TERM; python3 {script}", checkpoint={"save": ["ckpt"]})
    task = submit(serve, posted)
    first = evaluate("--max-jobs", "1")
    until(lambda: log.exists() and min(steps_of(log).get(p, 0) for p in "12") >= 12, what="60 % of the steps")
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    status = jobs(serve, task)[0]
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1201), dump(status)
    second = evaluate("--max-jobs", "1")
    assert second.wait() == 0
    assert ended(serve, task)["counts"]["evaluated"] == 2
    assert sum(steps_of(log).values()) <= 1.05 * 40
    assert all(one["attempts_left"] == 4 for one in points(serve, task).values())
    cached = [one for one in serve.requests() if one["path"].startswith(f"/cache/hpo_cp_{task}_")]
    assert {one["status"] for one in cached} == {200, 404}
    assert serve.session.get(f"{serve.url}/cache/hpo_cp_{task}_1").status_code == 404  # removed when it was done


def test_what_was_closed_before_a_stop_stays_closed_and_the_job_has_finished(serve, evaluate):
    hang = "if test $HPO_SAMPLE_ID = 3; then sleep 600; fi; cp input.json m; " + python(ECHO)
    task = submit(serve, study(points=3, command=hang, evaluation={"metrics": "m"}))
    pilot = evaluate("--max-jobs", "1")
    until(lambda: look(serve, task)["counts"]["evaluated"] == 2, what="two points")
    pilot.signal(signal.SIGTERM)
    assert pilot.wait() == 0
    status = jobs(serve, task)[0]
    assert status["state"] == "finished", dump(status)
    assert len(status["outputs"]) == 2
    found = points(serve, task)
    assert (found["3"]["state"], found["3"]["attempts_left"]) == ("waiting", 4)


def test_a_killed_pilots_losses_are_told_by_the_next_life(serve, evaluate, tmp_path):
    serve.faults({"match": "/idds/hpo/", "do": "status", "status": 503, "nth": 3, "count": None})
    task = submit(serve, study(points=2, command=python(ECHO)))
    pilot = evaluate("--max-jobs", "1")
    pilot.says("evaluation ended point=2")
    pilot.says("evaluation ended point=1")
    pilot.process.kill()
    pilot.process.wait()
    serve.faults()
    again = type(pilot)(serve.url, pilot.work, "--max-jobs", "1", environment={**PATIENCE, "PILOT_SLOTS": "2"})
    assert again.wait() == 0
    assert "telling losses that an earlier life has left points=2" in again.log.read_text()
    assert all(len(told) == 1 for told in losses(serve, task).values())
    assert "evaluation started" not in again.log.read_text()
    status = jobs(serve, task)[0]
    assert status["state"] == "finished", dump(status)


# --- many pilots ------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_four_pilots_of_which_three_are_taken_away_give_each_point_one_loss(tmp_path, run):
    """Two are killed, one is stopped; what they had goes to the one that is left, after a lease of 10 s at most."""
    server = Serve(tmp_path / "leased", 0, "--lease", "10")
    try:
        slow = "sleep 0.$(($HPO_SAMPLE_ID % 5 + 3)); " + python(ECHO)
        task = submit(server, study(points=40, command=slow))
        settings = {**PATIENCE, "PILOT_SLOTS": "2", "PILOT_HEARTBEAT": "2", "PILOT_LEASE": "10", "PILOT_LINGER": "15",
                    "PILOT_STEERING_WAIT": "2"}  # fmt: skip
        pilots = [run("--max-jobs", "1", server=server.url, environment=settings) for _ in range(4)]
        until(lambda: look(server, task)["counts"]["evaluated"] >= 8, what="eight points")
        killed = [holder(server, pilot) for pilot in pilots[:2]]
        for pilot in pilots[:2]:
            pilot.process.kill()
        pilots[2].signal(signal.SIGTERM)
        assert pilots[2].wait() == 0
        assert pilots[3].wait(120) == 0
        found = ended(server, task, 60)
        assert found["counts"]["evaluated"] == 40, dump(found["counts"])
        assert found["counts"]["penalised"] == 0
        for point, told in losses(server, task).items():
            assert len(told) == 1, (point, told)
        assert killed[0] != killed[1]
    finally:
        server.stop()


def holder(server, pilot):
    """The job that a pilot has taken, by its log."""
    pilot.says("job acquired job=")
    return int(pilot.log.read_text().split("job acquired job=")[1].split()[0])


# --- servers that fail, and generations -------------------------------------------------------------------


@pytest.mark.parametrize("do", ["drop_before", "drop_after", "status", "garbage"])
@pytest.mark.parametrize("match", ["/idds/hpo", "acquire_event_ranges", "update_single_event_range"])
def test_an_answer_that_is_lost_or_wrong_costs_no_point_and_no_second_loss(serve, evaluate, match, do):
    task = submit(serve, study(points=4))
    serve.faults(*({"match": match, "do": do, "nth": nth} for nth in (1, 3, 4, 7)))
    assert evaluate("--max-jobs", "1").wait() == 0
    found = ended(serve, task)
    assert found["counts"]["evaluated"] == 4, dump(found["counts"])
    assert all(len(told) == 1 for told in losses(serve, task).values())
    assert all(one["attempts_left"] == 5 for one in points(serve, task).values())
    status = jobs(serve, task)[0]
    assert status["state"] == "finished", dump(status)


def test_a_server_as_broken_as_the_live_one_will_do(tmp_path, run):
    server = Serve(tmp_path / "broken", 0, "--as-broken-as-1.0.4")
    try:
        task = submit(server, study(points=3))
        assert run("--max-jobs", "1", server=server.url, environment=PATIENCE).wait() == 0
        assert ended(server, task)["counts"]["evaluated"] == 3
    finally:
        server.stop()


def test_pilots_wait_for_the_next_generation_and_hold_nothing_meanwhile(serve, run):
    slow = "sleep $(($HPO_SAMPLE_ID % 2)); " + python(ECHO)
    task = submit(serve, study(points=6, points_per_iteration=2, command=slow))
    settings = {**PATIENCE, "PILOT_SLOTS": "1", "PILOT_LINGER": "20", "PILOT_STEERING_WAIT": "2"}
    pilots = [run("--max-jobs", "1", environment=settings) for _ in range(2)]
    assert [pilot.wait() for pilot in pilots] == [0, 0]
    found = ended(serve, task)
    assert (found["counts"]["evaluated"], len(found["jobs"]), found["generation"]) == (6, 2, 3), dump(found["counts"])
    assert all(one["attempts_left"] == 5 for one in found["points"])


def test_advice_on_the_size_of_a_generation_is_in_the_log(serve, evaluate):
    submit(serve, study(points=5, points_per_iteration=5))
    pilot = evaluate("--max-jobs", "1", PILOT_SLOTS="4")
    assert pilot.wait() == 0
    assert "a generation of 5 points uses 62 % of the time of 4 slots" in pilot.log.read_text()


def test_an_acquire_that_is_refused_for_its_role_fails_the_job_with_that_text(serve, evaluate):
    refusal = '{"success": false, "message": "production or pilot role required", "data": null}'
    serve.faults({"match": "acquire_event_ranges", "do": "garbage", "body": refusal, "count": None})
    task = submit(serve, study(points=1))
    assert evaluate("--max-jobs", "1").wait() == 0
    status = jobs(serve, task)[0]
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1318), dump(status)
    assert "production or pilot role required" in status["pilot_error_diag"]


def test_a_dry_run_evaluates_one_made_up_point_and_tells_nobody(serve, evaluate):
    task = submit(serve, study(points=2, command="echo $HPO_SAMPLE_ID; echo '{\"loss\": 1}' > output.json"))
    dry = as_first_job(serve, task)
    job = serve.submit_panda(**{**dry, "jobPars": dry["jobPars"] + " --dryRun"})
    assert evaluate("--max-jobs", "1").wait() == 0
    status = serve.ended(job)
    assert status["state"] == "finished", dump(status)
    assert log_members(serve, status)["points/123.1/stdout"] == "123\n"
    asked = [one["path"] for one in serve.requests(job)]
    assert not [path for path in asked if "/idds/" in path or "/event/" in path]


def test_an_event_that_others_have_by_now_does_not_hold_the_job(serve, evaluate):
    """The point has its loss, and its event cannot be closed by us any more."""
    task = submit(serve, study(points=1, initial_points=[[{"x": 0.1}, None]]))
    serve.call("PUT", f"/idds/hpo/{task}/null/1/0.125")
    refusal = '{"success": false, "message": "no such range", "data": null}'
    serve.faults({"match": "update_single_event_range", "do": "garbage", "body": refusal, "count": None})
    assert evaluate("--max-jobs", "1").wait() == 0
    assert losses(serve, task)["1"] == [0.125]


def test_a_server_that_never_answers_is_given_up_after_patience(serve, evaluate):
    serve.faults({"match": "acquire_event_ranges", "do": "status", "status": 503, "count": None})
    task = submit(serve, study(points=1))
    assert evaluate("--max-jobs", "1", PILOT_PATIENCE="3").wait() == 0
    status = jobs(serve, task)[0]
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1318), dump(status)
    assert "no answer within 3 s" in status["pilot_error_diag"]
