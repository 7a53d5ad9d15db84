"""The embedded server answers for iDDS as the live one did, exchange by exchange; the relay included."""

import contextlib
import json
import re

import pytest
import requests

from pilot.embedded.server import EmbeddedServer
from tests.contract.embedded_client import PATIENCE_S
from tests.contract.recorded import IDDS_EXCHANGES
from tests.local import LocalToken

TASK, REQUEST = 1001, 1
NOT_COPIED = {"hpo GET spoofed SSL-CLIENT-S-DN header (!)": "whoever sends this header is anybody"}
"""What the live server does and ours must not."""


def recorded_study():
    """The study of the recording: its five points, of which no loss was known in the first answer."""
    first = next(one for one in IDDS_EXCHANGES if one.name == "hpo GET by workload only")
    points = [one["parameters"] for one in json.loads(first.reply)]
    real = {"method": "uniform", "dimension": {"low": 0, "high": 1}}
    return {
        "study": "recorded",
        "task_id": TASK,
        "max_points": len(points),
        "search_space": {"batch": {"method": "categorical", "dimension": {"categories": [16, 32]}}, "lr": real},
        "initial_points": [[point, None] for point in points],
        "steering": {"builtin": "random"},
        "evaluation": {"exec": "true"},
    }


def ours(exchange):
    """Path and body with our ids: those of the recording begin at 0, ours at 1 (hpo-contract.md 2.2)."""
    path = re.sub(
        r"(/idds/hpo/[^/]+/[^/]+/)([0-9]+)(?=/)", lambda found: found[1] + str(int(found[2]) + 1), exchange.path
    )
    if "JSON body" not in exchange.request:
        return path, None
    body = json.loads(exchange.body)
    told = json.loads(body.get("kwargs", "{}"))
    if "id" in told:
        body["kwargs"] = json.dumps({**told, "id": told["id"] + 1})
    return path, body


def theirs(text):
    """An answer with the ids of the recording."""
    return re.sub(r'("id": ")([0-9]+)"', lambda found: f'{found[1]}{int(found[2]) - 1}"', text)


def head(message):
    """What is said before the database's own words begin: ours is another database."""
    return message and re.split(r"(?:\\n)?\[SQL|\\nDetails", message)[0].rstrip('"}')


class Replay:
    """The recorded session played again."""

    def __init__(self, data):
        self.server = EmbeddedServer(data, tls=True, as_broken_as_1_0_4=True, vos=("wlcg",)).start()
        self.sessions = {}
        for name in ("none", "pilot", "user"):
            self.sessions[name] = session = requests.Session()
            session.trust_env = False
            session.verify = str(self.server.ca)
            if name != "none":
                session.cert = str(data / f"{name}.pem")
                (data / f"{name}.pem").write_text(self.server.client_certificate(f"A {name}"))
        url, auth = f"{self.server.url}/local/studies", LocalToken(self.server.local_token)
        answer = self.sessions["none"].post(url, json={"study": recorded_study()}, auth=auth, timeout=PATIENCE_S)
        assert answer.json() == {"task": TASK}, answer.text

    def close(self):
        for session in self.sessions.values():
            session.close()
        self.server.stop()

    def send(self, exchange):
        path, body = ours(exchange)
        headers = dict(exchange.headers)
        for name in ("X-IDDS-Auth-Token", "Authorization"):
            if "eyJ" in headers.get(name, ""):
                headers[name] = headers[name].partition("eyJ")[0] + self.server.mint()
        session = self.sessions[exchange.certificate]
        return session.request(exchange.method, self.server.url + path, headers=headers, json=body, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """The answers to all exchanges in their order."""
    with contextlib.closing(Replay(tmp_path_factory.mktemp("idds"))) as replay:
        return {exchange.name: replay.send(exchange) for exchange in IDDS_EXCHANGES}


@pytest.mark.parametrize("exchange", IDDS_EXCHANGES, ids=lambda one: one.name)
def test_a_recorded_exchange_gets_the_recorded_answer(replayed, exchange):
    answer = replayed[exchange.name]
    if exchange.name in NOT_COPIED:
        assert answer.status_code == 401, NOT_COPIED[exchange.name]
        return
    assert answer.status_code == exchange.status, answer.headers
    assert theirs(answer.text) == exchange.reply
    told = exchange.reply_header
    assert answer.headers["Content-Type"] == told("Content-Type")
    assert answer.headers.get("ExceptionClass") == told("ExceptionClass")
    assert head(answer.headers.get("ExceptionMessage")) == head(told("ExceptionMessage"))
