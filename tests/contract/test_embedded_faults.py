"""Each kind of fault strikes the request that it is meant for, and no other."""

import contextlib
import threading
import time

import pytest
import requests

from tests.contract.embedded_client import running, until

ALIVE = "/api/v1/system/is_alive"


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def test_a_status_is_answered_without_processing(client):
    job = client.submit()
    client.faults({"match": "acquire_jobs", "do": "status", "status": 503, "body": "busy"})
    answer = client.send("POST", "/api/v1/pilot/acquire_jobs", json={"site_name": "LOCAL"})
    assert (answer.status_code, answer.text) == (503, "busy")
    assert client.state(job) == "activated"
    assert len(client.acquire()) == 1


def test_garbage_is_html_with_status_200(client):
    client.faults({"match": "is_alive", "do": "garbage"})
    answer = client.send("GET", ALIVE)
    assert answer.status_code == 200
    assert answer.text.startswith("<html>")


def test_a_request_dropped_before_has_no_effect(client):
    job = client.submit()
    client.faults({"match": "acquire_jobs", "do": "drop_before"})
    with pytest.raises(requests.ConnectionError):
        client.acquire()
    assert client.state(job) == "activated"


def test_a_request_dropped_after_has_its_effect(client):
    job = client.running()
    client.faults({"match": "update_job", "state": "finished", "do": "drop_after"})
    client.update(job, "running")
    with pytest.raises(requests.ConnectionError):
        client.finish(job)
    assert client.ended(job) == "finished"
    dropped = [one for one in client.requests(job) if one["fault"]]
    assert [(one["fault"], one["status"]) for one in dropped] == [("drop_after", None)]


def test_a_delayed_request_has_no_effect_yet_and_holds_nobody_up(client):
    job = client.submit()
    client.faults({"match": "acquire_jobs", "do": "delay", "seconds": 1.0})
    got = []
    thread = threading.Thread(target=lambda: got.append(apart(client, "acquire_jobs", site_name="LOCAL")))
    thread.start()
    until(lambda: any(one["path"].endswith("acquire_jobs") for one in client.requests()))
    assert client.state(job) == "activated"
    thread.join()
    assert got[0]["success"]


def test_a_late_answer_comes_after_its_effect(client):
    job = client.submit()
    client.faults({"match": "acquire_jobs", "do": "late", "seconds": 1.0})
    got = []
    thread = threading.Thread(target=lambda: got.append(apart(client, "acquire_jobs", site_name="LOCAL")))
    thread.start()
    until(lambda: client.state(job) == "sent")
    assert not got
    thread.join()
    assert got[0]["success"]


def apart(client, name, **fields):
    """A call on a connection of its own."""
    return requests.post(f"{client.url}/api/v1/pilot/{name}", json=fields, timeout=10).json()


@pytest.mark.parametrize(
    ("rule", "struck"),
    [
        ({}, [True, False, False, False]),
        ({"nth": 2}, [False, True, False, False]),
        ({"nth": 2, "count": 2}, [False, True, True, False]),
        ({"count": None}, [True, True, True, True]),
        ({"match": "elsewhere"}, [False, False, False, False]),
    ],
)
def test_a_rule_strikes_as_often_as_it_says(client, rule, struck):
    client.faults({"match": "is_alive", "do": "status", **rule})
    assert [client.send("GET", ALIVE).status_code == 500 for _ in range(4)] == struck


def test_deleting_the_rules_ends_them(client):
    client.faults({"match": "is_alive", "do": "status", "count": None})
    assert client.send("DELETE", "/local/faults").json() == {"rules": []}
    assert client.send("GET", ALIVE).status_code == 200


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({}, "rules"),
        ([1], "rules[0]"),
        ([{"match": "x", "do": "explode"}], "rules[0].do"),
        ([{"do": "delay"}], "rules[0].match"),
        ([{"match": "x", "do": "delay", "secs": 1}], "rules[0].secs"),
        ([{"match": "x", "do": "delay", "seconds": "1"}], "rules[0].seconds"),
    ],
)
def test_a_bad_rule_is_refused_by_name(client, rules, field):
    answer = client.send("POST", "/local/faults", json=rules)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{field}:")


@pytest.mark.parametrize("kind", ["delay", "late"])
def test_stopping_does_not_wait_for_a_pause(tmp_path, kind):
    with running(tmp_path) as client:
        client.faults({"match": "is_alive", "do": kind, "seconds": 300})
        thread = threading.Thread(target=hopeless, args=(client,))
        thread.start()
        until(lambda: any(one["path"] == ALIVE for one in client.requests()))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    thread.join()


def hopeless(client):
    with contextlib.suppress(requests.RequestException):
        requests.get(client.url + ALIVE, timeout=30).close()
