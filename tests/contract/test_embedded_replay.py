"""The embedded server answers as the live one did, exchange by exchange; ``pytest -s`` prints the table."""

import ast
import contextlib
import json
import re
import sqlite3
from collections import Counter

import pytest
import requests

from pilot.embedded.server import EmbeddedServer
from tests.contract.embedded_client import PATIENCE_S, running
from tests.contract.recorded import EXCHANGES
from tests.local import LocalToken

UNKNOWN_ID = 99999999
EVENTS = {8: 20, 10: 8}
FINAL = ("finished", "failed", "cancelled")
NOT_OF_PILOTS = ("harvester/", "metaconfig/get_site_specs")
WITHOUT_ITS_TABLE = "update_worker_node: new", "update_worker_node: again"
WAITING = {"acquire_jobs: a job is there, timeout=5": 419}
"""Jobs up to this one were waiting when an exchange was recorded, though it did not hand them out."""


def why_not(exchange):
    """The reason why an exchange is not replayed, None if it is."""
    if exchange.status is None:
        return "the recording client could not send it"
    return "not a call of pilots" if exchange.call.startswith(NOT_OF_PILOTS) else None


class Replay:
    """A recorded session played again, with the recorded job ids."""

    def __init__(self, data, secure, plain):
        self.data, self.secure, self.plain = data, secure, plain
        self.last = 0
        self.jobs = {}
        for exchange in EXCHANGES:
            for job in exchange.jobs:
                self.jobs.setdefault(job["PandaID"], (job, json.loads(exchange.body)["site_name"]))
        self.sessions = {name: self.session(name) for name in ("pilot", "user", "none")}

    def session(self, certificate):
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.secure.ca)
        if certificate == "pilot":
            session.cert = str(self.data / "tls" / "client.pem")
        if certificate == "user":
            session.cert = str(self.data / "user.pem")
            (self.data / "user.pem").write_text(self.secure.client_certificate("Alice Example"))
        return session

    def close(self):
        for session in self.sessions.values():
            session.close()

    def play(self, exchange):
        for job in range(self.last + 1, 1 + max([*self.meant(exchange), WAITING.get(exchange.name, 0), 0])):
            self.submit(job)
        self.prepare(exchange)
        answer = self.send(exchange)
        assert answer.status_code == exchange.status, (exchange.name, answer.text)
        assert answer.headers["Content-Type"] == "text/plain"
        assert self.answered(exchange, answer) == recorded(exchange), exchange.name

    def meant(self, exchange):
        return [job for job in [*exchange.mentioned, *(one["PandaID"] for one in exchange.jobs)] if job != UNKNOWN_ID]

    def submit(self, job):
        """Submit a job under its recorded id; what was not recorded of it is in a queue that nobody asks."""
        definition, queue = self.jobs.get(job, ({}, "ELSEWHERE"))
        if job not in self.jobs and job not in {one for exchange in EXCHANGES for one in exchange.mentioned}:
            return
        with contextlib.closing(sqlite3.connect(self.data / "jobs.sqlite")) as connection:
            connection.execute("DELETE FROM sqlite_sequence WHERE name='jobs'")
            connection.execute("INSERT INTO sqlite_sequence VALUES ('jobs', ?)", (job - 1,))
            connection.commit()
        events = {"events": {"count": EVENTS[job], "per_range": 2}} if job in EVENTS else {}
        body = {"definition": {"panda": definition, "queue": queue, **events}}
        assert self.local("jobs", body) == {"id": job}
        self.last = job

    def local(self, name, body):
        url, auth = f"{self.secure.url}/local/{name}", LocalToken(self.secure.local_token)
        with self.sessions["none"].post(url, json=body, auth=auth, timeout=PATIENCE_S) as answer:
            assert answer.ok, answer.text
            return answer.json()

    def prepare(self, exchange):
        """Bring the server into the state that it was recorded in."""
        if exchange.name.startswith("DATABASE DOWN") or exchange.name in WITHOUT_ITS_TABLE:
            self.local("faults", [{"match": "/api/", "do": "no_database"}])
        if exchange.call == "pilot/get_job_status" and exchange.headers["Accept"] == "application/json":
            for one in json.loads(exchange.reply)["data"]:
                if one["status"] in FINAL:
                    self.secure.judge(one["job_id"])

    def send(self, exchange):
        server = self.plain if "plain http port" in exchange.name else self.secure
        headers = dict(exchange.headers)
        if "Authorization" in headers:
            cut = headers["Authorization"].removesuffix("...")
            headers["Authorization"] = f"Bearer {token(server, exchange.name)}" if "eyJ" in cut else cut
        url, session = server.url + exchange.path, self.sessions[exchange.certificate]
        return session.request(exchange.method, url, headers=headers, timeout=PATIENCE_S, **exchange.sent)

    def answered(self, exchange, answer):
        """The answer as it is compared; of jobs that were recorded in part, this part."""
        if not exchange.jobs:
            return unordered(answer.text)
        got = answer.json()["data"]["jobs"]
        assert len(got) == len(exchange.jobs), exchange.name
        return [{key: one[key] for key in then} for one, then in zip(got, recorded(exchange), strict=True)]


def token(server, name):
    """A token of the kind that an exchange is about."""
    if "expired" in name:
        return server.mint(lifetime_s=-10)
    if "tampered" in name:
        head, _, signature = server.mint().rpartition(".")
        return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    if "lacking the group" in name:
        return server.mint(role="")
    # This one was told to be of a robot that has the role by its name.
    return server.mint(name="Robot Pilot") if name.endswith("(no role)") else server.mint()


def recorded(exchange):
    """What is expected: how many others were sent at that time, and the robot's whole name, do not matter."""
    if exchange.jobs:
        return [{key: value for key, value in job.items() if key != "nSent"} for job in exchange.jobs]
    return unordered(exchange.reply.replace("Robot Pilot One", "Robot Pilot"))


def unordered(text):
    """The text with the members of a set, if one is in it, in order: that of the server changes."""
    return re.sub(r"\{'[^:]*'\}|\{'.*?'\}(?= \(<class 'set'>)|(?<='data': )\{.*\}(?=\}$)", in_order, text)


def in_order(found):
    try:
        members = ast.literal_eval(found[0])
    except (SyntaxError, ValueError):
        return found[0]
    return f"<{sorted(members)}>" if isinstance(members, set) else found[0]


def table(played, skipped):
    calls = sorted({exchange.call for exchange in EXCHANGES})
    rows = [(call, played[call] + sum(skipped[call].values()), played[call], skipped[call]) for call in calls]
    lines = [f"{call:44}{count:9}{equal:8}  {dict(reasons) or ''}" for call, count, equal, reasons in rows]
    return "\n".join(["", f"{'call':44}{'exchanges':>9}{'equal':>8}  skipped", *lines])


def test_the_recorded_session_gets_the_recorded_answers(tmp_path):
    played, skipped = Counter(), {exchange.call: Counter() for exchange in EXCHANGES}
    data, nobody = tmp_path / "secure", {"Robot Pilot": ""}
    with (
        EmbeddedServer(data, tls=True, adder_delay_s=3600, as_broken_as_1_0_4=True, permissions=nobody) as secure,
        EmbeddedServer(tmp_path / "plain", auth="required") as plain,
        contextlib.closing(Replay(data, secure, plain)) as replay,
    ):
        secure.set_queue("REAL_TEST", status="test")
        for exchange in EXCHANGES:
            reason = why_not(exchange)
            if reason:
                skipped[exchange.call][reason] += 1
            else:
                replay.play(exchange)
                played[exchange.call] += 1
    print(table(played, skipped))
    assert sum(played.values()) == len(EXCHANGES) - 5


@pytest.mark.parametrize("accept", ["*/*", "application/json, */*", "Application/JSON"])
def test_only_the_exact_accept_header_brings_json(tmp_path, accept):
    with running(tmp_path) as client:
        answer = client.send("GET", "/api/v1/system/is_alive", headers={"Accept": accept})
    assert answer.text == "{'success': True, 'message': '', 'data': None}"
