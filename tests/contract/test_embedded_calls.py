"""Bulk updates, debug mode, machines, the cache, queues, and a server that has lost its database."""

import json

import pytest

from tests.contract.embedded_client import running

DATA = {"StatusCode": 0, "command": "NULL"}


@pytest.fixture
def client(tmp_path):
    with running(tmp_path) as client:
        yield client


def one(job, **fields):
    return {"job_id": job, "job_status": "running", **fields}


def test_a_bulk_update_spoils_only_the_item_that_is_wrong(client):
    job = client.running()
    items = [one(job, nonsense=1), one(job, job_status="stagein"), one(job, meta_data={"a": 1}), one(job)]
    told = client.call("pilot/update_jobs_bulk", job_list=items, harvester_id="h")["data"]
    assert told[0]["message"] == "Argument error: got an unexpected keyword argument 'nonsense'"
    assert told[1]["data"] == {"StatusCode": 50}
    assert [item["data"] for item in told[2:]] == [DATA, DATA]


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({"job_status": "running"}, "KeyError 'job_id'"),
        (one(1, max_rss="1"), "AttributeError 'types.UnionType' object has no attribute '__name__'"),
    ],
)
def test_a_bulk_update_can_break_as_a_whole(client, item, error):
    job = client.running()
    told = client.call("pilot/update_jobs_bulk", job_list=[one(job, job_status="holding"), item])
    assert told == {"success": False, "message": f"failed with {error}", "data": []}
    assert client.state(job) == "holding"


def test_status_and_command_come_without_ids(client):
    job = client.running()
    client.call("job/set_command", job_id=job, command="tail a.log")
    answer = client.send("GET", "/api/v1/job/get_status", params={"job_ids": [99, job]}).json()
    assert answer["data"] == [
        {"status": "unknown", "command": "tobekilled"},
        {"status": "running", "command": "tail a.log"},
    ]


def debug(client, job, mode):
    told = client.call("job/set_debug_mode", job_id=job, mode=mode)
    return told["success"], told["message"]


def test_debug_mode_goes_on_and_off(client):
    job = client.running()
    assert debug(client, job, mode=True) == (False, "Succeeded")
    assert client.update(job, "running") == {"StatusCode": 0, "pilotSecrets": "{}", "command": "debug"}
    client.call("job/kill", job_ids=[job])
    assert client.update(job, "running")["command"] == "debug,tobekilled"
    assert debug(client, job, mode=False) == (False, "Succeeded")
    assert client.update(job, "running") == {"StatusCode": 0, "command": "tobekilled"}


def test_debug_mode_of_a_waiting_job_is_delivered_with_it(client):
    job = client.submit()
    debug(client, job, mode=True)
    (given,) = client.acquire()
    assert (given["debug"], given["pilotSecrets"]) == ("True", "{}")


def test_debug_mode_says_success_when_it_failed(client):
    job = client.running()
    client.finish(job)
    assert debug(client, 99, mode=True) == (True, "PandaID=99 not found in active DB")
    success, message = debug(client, job, mode=True)
    assert success
    assert message.startswith(
        ("Cannot set debugMode since the job status is holding which is not in one of [", "PandaID")
    )


def test_secrets_are_delivered_as_text(client):
    client.submit(secrets={"password": "x"})
    (given,) = client.acquire()
    assert json.loads(given["secrets"]) == {"password": "x"}


@pytest.mark.parametrize(
    ("key", "value"), [("secrets", "x"), ("secrets", []), ("maxAttempt", "3"), ("maxAttempt", -1), ("maxAttempt", True)]
)
def test_bad_keys_of_our_own_are_refused_with_their_name(client, key, value):
    for definition in ({"command": "true", key: value}, {"panda": {key: value}}):
        answer = client.send("POST", "/local/jobs", json={"definition": definition})
        assert (answer.status_code, answer.json()["error"].split(":")[0]) == (400, key)


def test_a_gpu_is_inserted_and_then_updated(client):
    gpu = {"site": "S", "host_name": "slot1@wn", "vendor": "NVIDIA", "model": "A100", "count": 4}
    first = client.call("pilot/update_worker_node_gpu", **gpu, vram=40960, framework="CUDA")
    again = client.call("pilot/update_worker_node_gpu", **{**gpu, "host_name": "wn", "count": 2}, vram=1)
    assert [first["message"], again["message"]] == [
        "Inserted new worker node GPU.",
        "Updated existing worker node GPU.",
    ]
    (kept,) = client.send("GET", "/local/nodes").json()["gpus"]
    assert (kept["host_name"], kept["count"], kept["vram"], kept["framework"]) == ("wn", 2, 40960, None)


def test_a_name_that_is_too_long_looks_like_a_lock(client):
    node = {"site": "S", "host_name": "wn", "cpu_model": "c" * 129}
    told = client.call("pilot/update_worker_node", **node)
    assert told["success"]
    assert told["message"] == "Another pilot was updating the worker node at the same time."
    assert not client.call("pilot/update_worker_node", **{**node, "cpu_model": "c"}, panda_queue="q" * 129)["success"]
    assert client.send("GET", "/local/nodes").json()["nodes"] == []


def upload(client, name, content=b"x", call="upload_cache_file"):
    return client.send("POST", f"/api/v1/file_server/{call}", files={"file": (name, content)}).json()


def test_an_uploaded_file_can_be_fetched_as_it_is(client):
    content = b"\x1f\x8b\x08not really gzip"
    assert upload(client, "a/b/worker.out", content) == {"success": True, "message": "", "data": None}
    answer = client.send("GET", "/cache/worker.out")
    assert (answer.content, answer.headers.get("Content-Encoding")) == (content, None)
    assert client.send("GET", "/cache/missing").status_code == 404


def test_a_file_is_not_overwritten_unless_its_name_says_so(client):
    upload(client, "a.out")
    assert upload(client, "a.out", b"y") == {"success": False, "message": "ERROR: cannot overwrite file", "data": None}
    assert client.send("GET", "/cache/a.out").content == b"x"
    assert upload(client, "a.__ow__")["success"]
    assert upload(client, "a.__ow__", b"y")["success"]
    assert client.send("GET", "/cache/a.__ow__").content == b"y"


@pytest.mark.parametrize("name", ["..", ".", "a\x00b", "a b", "x" * 201])
def test_a_name_that_is_no_file_is_refused(client, name):
    assert not upload(client, name)["success"]


def test_a_large_file_is_refused_in_whole_mebibytes(client):
    assert upload(client, "log.tgz", bytes(11 * 2**20 - 2000))["success"]
    told = upload(client, "log2.tgz", bytes(11 * 2**20))
    assert told["message"].startswith("ERROR: upload failure. Exceeded size limit 11 MB > 10 MB.")
    assert upload(client, "log.out", bytes(11 * 2**20))["success"]


@pytest.mark.parametrize("sent", [{"data": {"file": "text"}}, {"json": {"file": "text"}}])
def test_an_upload_without_a_file_is_refused(client, sent):
    answer = client.send("POST", "/api/v1/file_server/upload_cache_file", **sent).json()
    assert answer["message"] == "Type error: 'file' must be of type FileStorage, got str."


def test_a_checkpoint_is_put_overwritten_and_deleted(client):
    for content in (b"1", b"2"):
        assert upload(client, "31_7", content, "upload_hpo_checkpoint")["success"]
    assert client.send("GET", "/cache/hpo_cp_31_7").content == b"2"
    assert client.call("file_server/delete_hpo_checkpoint", task_id="31", sub_id="7")["success"]
    assert client.send("GET", "/cache/hpo_cp_31_7").status_code == 404
    assert not upload(client, "nopoint", b"", "upload_hpo_checkpoint")["success"]
    told = client.call("file_server/delete_hpo_checkpoint", task_id=31, sub_id="7")
    assert told["message"] == "Type error: 'task_id' must be of type str, got int."


def test_an_upload_is_recorded_without_its_bytes(client):
    upload(client, "a.out", b"secret")
    (seen,) = [one for one in client.requests() if "upload_cache_file" in one["path"]]
    assert (seen["body"], seen["status"]) == ("", 200)


def test_the_document_of_a_queue_can_be_changed_and_stays_so(tmp_path):
    with running(tmp_path) as client:
        client.send("POST", "/local/queues/NEW", json={"status": "offline"})
        client.send("POST", "/local/queues/NEW", json={"maxtime": 60})
    with running(tmp_path) as client:
        told = client.send("GET", "/cache/schedconfig/NEW.all.json").json()
        assert (told["status"], told["maxtime"], told["name"]) == ("offline", 60, "NEW")
        assert client.send("POST", "/local/queues/NEW", json=[]).status_code == 400
        assert client.send("POST", "/local/queues/a%20b", json={}).status_code == 400


@pytest.mark.parametrize(
    ("label", "status", "given"),
    [
        ("managed", "online", ["managed", "test"]),
        ("user", "online", ["user"]),
        ("unified", "online", ["managed", "user", "test"]),
        ("ptest", "online", ["ptest"]),
        (None, "online", ["managed", "test"]),
        ("managed", "test", ["test"]),
    ],
)
def test_a_label_chooses_jobs(client, label, status, given):
    client.send("POST", "/local/queues/Q", json={"status": status})
    for one_label in ("managed", "user", "test", "ptest"):
        client.send("POST", "/local/jobs", json={"definition": {"panda": {"prodSourceLabel": one_label}, "queue": "Q"}})
    jobs = client.acquire(site_name="Q", n_jobs=9, prod_source_label=label)
    assert [job["prodSourceLabel"] for job in jobs] == given


@pytest.mark.parametrize("wanted", [{"resource_type": "MCORE"}, {"task_id": 7}, {"prod_user_id": "/CN=x"}])
def test_filters_choose_jobs(client, wanted):
    for panda in ({}, {"resource_type": "MCORE", "taskID": 7, "prodUserID": "/CN=x"}):
        client.send("POST", "/local/jobs", json={"definition": {"panda": panda, "queue": "Q"}})
    jobs = client.acquire(site_name="Q", n_jobs=9, **wanted)
    assert [job["PandaID"] for job in jobs] == [2]


def test_without_its_database_the_server_stays_up(client):
    job = client.running()
    client.faults({"match": "/api/", "do": "no_database", "count": None})
    assert client.update(job, "finished") == {"StatusCode": 30}
    assert client.state(job) == "unknown"
    assert client.call("pilot/update_jobs_bulk", job_list=[one(job)])["data"][0]["data"] == {"StatusCode": 30}
    client.faults()
    assert client.state(job) == "running"
