"""Which settings a recoverer takes from a journal that a payload could have written."""

from pathlib import Path

import pytest

from pilot.agent.inheritance import inherited
from pilot.values.errors import UsageError
from pilot.values.settings import resolve

WORK = Path("/scratch")
TOLD = resolve({}, {}, {"server": "https://panda.example:25443"})
ALONE = resolve({}, {}, {})


def test_who_the_pilot_was_is_taken():
    told = {"queue": "Q", "node": "n7", "harvester_id": "h", "worker_id": "5", "in_pod": True, "patience": 60.0}
    assert inherited(told, TOLD, WORK) == told


@pytest.mark.parametrize("url", ["https://evil.example", "http://panda.example:25443", "https://panda.example:1"])
def test_where_credentials_would_go_is_not_taken(url):
    told = {
        "server": url, "queuedata": f"{url}/q.json", "storagedata": f"{url}/s.json", "logs_write": url,
        "idds_servers": [url], "transform_urls": [url],
    }  # fmt: skip
    assert inherited(told, TOLD, WORK) == {}


def test_urls_of_the_named_server_are_taken():
    told = {"queuedata": "https://panda.example:25443/q.json", "logs_write": "https://panda.example:25443"}
    assert inherited(told, TOLD, WORK) == told


@pytest.mark.parametrize("way", ["{0}/x", "{0}/../{1}/x", "/proc/self/cwd/x", "./x", "{0}-link/x"])
def test_a_file_on_the_volume_is_no_credential(tmp_path, monkeypatch, way):
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "work-link").symlink_to(work)
    monkeypatch.chdir(work)
    path = way.format(work, work.name)
    assert inherited({"token": path, "ca": path, "storage_credentials": [f"*=token:{path}"]}, TOLD, work) == {}


def test_files_beside_the_volume_are():
    told = {"token": "t", "token_dir": "/tokens", "certificate": "/p/x509up", "storage_credentials": ["*=token:/t/t"]}
    assert inherited(told, TOLD, WORK) == told


@pytest.mark.parametrize(
    "told",
    [
        {"queue": [1]}, {"heartbeat": "soon"}, {"heartbeat": -1}, {"server": "x"}, {"node": "a\nb"}, {"nonsense": 1},
        {"existing_output": "overwrite"}, {"termination_log": "/etc/passwd"}, {"worker_id": "x"}, {"lanes": 0},
        {"checkpoints": ["../*"]}, {"drain_file": "/x"}, {"queue": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_setting_or_could_do_harm_is_passed_over(told):
    taken = inherited(told, TOLD, WORK)
    resolve(taken, {}, {})
    assert "existing_output" not in taken
    assert "termination_log" not in taken


def test_a_server_that_only_the_journal_names_gets_nobodys_credentials():
    told = {"server": "https://evil.example"}
    assert inherited(told, ALONE, WORK) == told
    with pytest.raises(UsageError, match="--server"):
        inherited({**told, "token": "/tokens/t"}, ALONE, WORK)
    with pytest.raises(UsageError, match="--server"):
        inherited(told, resolve({}, {"OIDC_AUTH_TOKEN": "/tokens/t"}, {}), WORK)
