"""Proxy, token, or both; rotated, renewed, expired (issue 3, shows 2 and 3)."""

import gzip
import json

import pytest

from tests.e2e.test_harvester import harvester
from tests.lab import Run, Serve, dump, ended_runs, until


@pytest.fixture
def secure(tmp_path):
    """An embedded server with TLS of its own CA, which demands credentials."""
    data = tmp_path / "data"
    server = Serve(data, 0, "--tls", verify=str(data / "tls" / "ca.pem"))
    yield server
    server.stop()


@pytest.fixture
def pod(secure, tmp_path):
    """Starts a pilot in Harvester's environment; ``proxy`` and ``token`` are mounted if they are wanted."""
    with ended_runs() as started:

        def start(*arguments, proxy=False, token=None, **more):
            secrets = tmp_path / "secrets"
            secrets.mkdir(exist_ok=True)
            settings = {"proxySecretPath": "/no/such/proxy", **more}
            config = tmp_path / "pilot.yaml"  # as a ConfigMap would bring it: the environment is Harvester's alone
            config.write_text(json.dumps({"ca": ca(secure)}))
            arguments = ("--server", secure.url, "--config", config, *arguments)
            if proxy:
                (secrets / "x509up").write_bytes((secure.data / "tls" / "client.pem").read_bytes())
                settings["proxySecretPath"] = str(secrets / "x509up")
            if token:
                (secrets / "panda_token").write_text(token + "\n")
                settings |= {
                    "PANDA_AUTH_DIR": str(secrets),
                    "PANDA_AUTH_TOKEN": "panda_token",
                    "PANDA_AUTH_ORIGIN": "wlcg.production",
                }
            environment = {**harvester(secure, tmp_path / "pilotdir"), **settings}
            started.append(Run(None, tmp_path / "pilotdir", *arguments, environment=environment, alone=True))
            return started[-1]

        yield start


def ca(server):
    return str(server.data / "tls" / "ca.pem")


def mint(server, **wishes):
    wishes = {"vo": "wlcg", "role": "production", **wishes}
    return server.call("POST", "/local/tokens", json=wishes)["token"]


@pytest.mark.parametrize("kind", ["proxy", "token", "both"])
def test_a_job_with_a_proxy_a_token_or_both(secure, pod, kind):
    job = secure.submit(command="true")
    token = mint(secure, lifetime_s=3600) if kind != "proxy" else None
    pilot = pod("--max-jobs", 1, proxy=kind != "token", token=token)
    assert pilot.wait() == 0, pilot.errors.read_text() + pilot.log.read_text()
    assert secure.ended(job)["state"] == "finished", dump(secure.status(job))
    if token:
        written = pilot.log.read_text() + pilot.errors.read_text() + "".join(texts(secure, job))
        assert token not in written


def texts(server, job):
    """All that the pilot has sent, and its log tarball's content."""
    yield from (str(one["body"]) for one in server.requests(job))
    yield gzip.decompress(server.fetch(server.status(job)["log"])).decode("utf-8", "replace")


def test_a_pod_without_credentials_is_exit_80(secure, pod):
    pilot = pod("--max-jobs", 1, "--idle", 3)
    assert pilot.wait() == 80
    assert len(pilot.errors.read_text().splitlines()) == 1
    assert secure.calls("acquire_jobs") == []


@pytest.mark.parametrize("wish", [{"lifetime_s": -10}, {"lifetime_s": 3600, "vo": "nosuchvo"}])
def test_an_expired_or_foreign_token_is_exit_80_and_stands_in_no_output(secure, pod, wish):
    token = mint(secure, **wish)
    pilot = pod("--max-jobs", 1, "--idle", 3, token=token)
    assert pilot.wait() == 80
    output = pilot.errors.read_text() + pilot.log.read_text()
    assert token not in output
    assert "Traceback" not in output
    assert len(pilot.errors.read_text().splitlines()) == 1


def test_a_token_that_is_rotated_in_the_middle_of_a_job_is_used(secure, pod, tmp_path):
    job = secure.submit(command="echo began; while [ ! -e done ]; do sleep 0.1; done")
    pilot = pod("--max-jobs", 1, token=mint(secure, lifetime_s=6), PILOT_HEARTBEAT="0.3")
    pilot.says("payload started")
    fresh = tmp_path / "secrets" / "fresh"
    fresh.write_text(mint(secure, lifetime_s=3600))
    fresh.replace(tmp_path / "secrets" / "panda_token")
    before = len(secure.calls("update_job", job))
    beats = int(6.5 / 0.27)  # more heartbeats than the first token has life for
    until(lambda: len(secure.calls("update_job", job)) > before + beats, what="updates after the first token's end")
    (work,) = pilot.work.glob("job-*/work")
    (work / "done").touch()
    assert pilot.wait() == 0, pilot.errors.read_text()
    assert secure.ended(job)["state"] == "finished"


def test_a_token_is_renewed_at_half_of_its_life(secure, pod, tmp_path):
    job = secure.submit(command="echo began; while [ ! -e done ]; do sleep 0.1; done")
    secure.call("POST", "/local/queues/LOCAL", json={"catchall": ""})  # by default: no_token_renewal
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key").write_text((secure.data / "tokens" / "token_key").read_text())
    pilot = pod("--max-jobs", 1, token=mint(secure, lifetime_s=6), PANDA_AUTH_TOKEN_KEY="key", PILOT_HEARTBEAT="0.3")
    pilot.says("the token was renewed")
    pilot.says("payload started")
    (work,) = pilot.work.glob("job-*/work")
    (work / "done").touch()
    assert pilot.wait() == 0
    assert secure.ended(job)["state"] == "finished"


def test_the_log_goes_to_the_cache_early_in_pieces_and_at_the_end_whole(secure, pod):
    job = secure.submit(command="echo began; while [ ! -e done ]; do sleep 0.1; done")
    pilot = pod("--max-jobs", 1, proxy=True, PILOT_LOG_INTERVAL="1")
    until(lambda: uploads(secure), what="the first piece")
    (work,) = pilot.work.glob("job-*/work")
    (work / "done").touch()
    assert pilot.wait() == 0
    assert secure.ended(job)["state"] == "finished"
    whole = gzip.decompress(secure.fetch(f"{secure.url}/cache/harv_1_4711_gz.out")).decode()
    first = gzip.decompress(secure.fetch(f"{secure.url}/cache/harv_1_4711_p001_gz.out")).decode()
    assert whole.startswith(first)
    assert "final delivered" in whole
    last = [one for one in secure.requests() if "/api/v1/" in one["path"]][-2:]
    assert [one["path"].rsplit("/", 1)[1] for one in last] in (
        ["upload_cache_file", "update_worker_status"], ["update_worker_status", "upload_cache_file"],
    )  # fmt: skip


def uploads(server):
    return [one for one in server.requests() if one["path"].endswith("upload_cache_file")]


def test_the_payload_gets_its_own_credential_and_not_the_pilots(secure, pod, tmp_path):
    proxy = tmp_path / "payload_proxy"
    proxy.write_text("the payload's own")
    job = secure.submit(command="env > env.txt; cat $X509_USER_PROXY >> env.txt", outputs=["env.txt"])
    assert pod("--max-jobs", 1, proxy=True, PILOT_PAYLOAD_PROXY=str(proxy)).wait() == 0
    text = secure.fetch(secure.ended(job)["outputs"][0]["url"]).decode()
    assert f"X509_USER_PROXY={proxy}" in text
    assert "the payload's own" in text
    assert "x509up" not in text
    assert "PANDA_AUTH" not in text


def test_a_proxy_for_the_payload_is_fetched_from_the_server(secure, pod):
    job = secure.submit(
        command="cat $X509_USER_PROXY > got; stat -c %a $X509_USER_PROXY > mode", outputs=["got", "mode"]
    )
    pilot = pod("--max-jobs", 1, proxy=True, PILOT_PAYLOAD_PROXY_ROLE="production")
    assert pilot.wait() == 0
    got, mode = (secure.fetch(one["url"]).decode() for one in secure.ended(job)["outputs"])
    assert "BEGIN CERTIFICATE" in got
    assert got != (secure.data / "tls" / "client.pem").read_text()
    assert mode.strip() == "600"


def test_a_job_without_the_payloads_credential_fails_before_stage_in(secure, pod):
    job = secure.submit(command="true", inputs=[{"name": "in", "url": f"{secure.url}/store/none"}])
    assert pod("--max-jobs", 1, proxy=True, PILOT_PAYLOAD_PROXY="/no/such/proxy").wait() == 0
    assert secure.ended(job)["pilot_error_code"] == 1163


def test_secrets_of_a_job_reach_its_payload_and_no_log(secure, pod):
    job = secure.call("POST", "/local/jobs", json={"definition": {
        "command": "cat panda_secrets.json > copy; cat panda_secrets.json", "outputs": ["copy"],
        "secrets": {"KEY": "s3cr3t-value-of-a-user"},
    }})["id"]  # fmt: skip
    pilot = pod("--max-jobs", 1, proxy=True)
    assert pilot.wait() == 0
    status = secure.ended(job)
    assert json.loads(secure.fetch(status["outputs"][0]["url"])) == {"KEY": "s3cr3t-value-of-a-user"}
    assert "s3cr3t" not in pilot.log.read_text()
    assert "s3cr3t" not in (pilot.work / "pilot.log").read_text()


def test_an_acquire_whose_answer_is_lost_does_not_stop_the_pilot(secure, pod):
    secure.faults({"match": "acquire_jobs", "do": "drop_after", "count": 1})
    lost, next_one = secure.submit(command="true"), secure.submit(command="true")
    assert pod("--max-jobs", 1, proxy=True).wait() == 0
    assert secure.ended(next_one)["state"] == "finished"
    assert secure.finals(lost) == []
