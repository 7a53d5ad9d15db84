"""The reporter against a real embedded server that goes away, comes back, or loses answers (issue 2, show 7).

Waiting is on an injected clock: while it jumps over the outage, the server really does not listen.
"""

import random
import socket

import pytest
import requests

from pilot.embedded.server import EmbeddedServer
from pilot.net.transport import Transport
from pilot.panda.client import PandaClient, Question
from pilot.panda.messages import Acquired, Reported, Verdict
from pilot.panda.report import Followed, Pace
from pilot.panda.reporter import Reporter
from pilot.panda.wire import Wire
from pilot.values.deadline import Deadline
from pilot.values.stop import Reason, Stop
from tests.fault.clock import JumpingClock
from tests.lab import free_port, until
from tests.local import LocalToken

PATIENCE = 30


@pytest.fixture
def world(tmp_path):
    """A server, a reporter that talks to it, a clock, and the job in the reporter's hands."""
    found = World(tmp_path / "data")
    yield found
    found.close()


class World:
    def __init__(self, data):
        self.data = data
        self.port = free_port()
        self.back()
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = LocalToken(lambda: self.server.local_token)
        self.clock = JumpingClock()
        self.stop = Stop()
        client = PandaClient(Wire(Transport(self.server.url), self.server.url, "test"))
        self.reporter = Reporter(client, pace=Pace(300, 60), clock=self.clock, rng=random.Random(4))
        self.reporter.start()
        self.job = self.call("POST", "/local/jobs", json={"definition": {"command": "true", "outputs": []}})["id"]
        self.reporter.acquire(Question("LOCAL", "managed", "node", "LOCAL"))
        message = self.message()
        assert isinstance(message, Acquired)
        identity = {"job_id": message.job.id, "attempt_nr": message.job.attempt, "node": "n", "batch_id": "b"}
        self.log = message.job.log.lfn
        self.reporter.follow(Followed(identity, self.stop))
        self.reporter.phase({"job_status": "starting"})
        self.reporter.phase({"job_status": "running"})
        until(lambda: self.state() == "running", what="running")

    def call(self, method, path, **more):
        url = f"http://127.0.0.1:{self.port}{path}"
        with self.session.request(method, url, timeout=30, **more) as answer:
            return answer.json()

    def message(self):
        return self.reporter.mailbox.get(Deadline.after(PATIENCE))

    def status(self):
        return self.call("GET", f"/local/jobs/{self.job}")

    def state(self):
        return self.status()["state"]

    def away(self, seconds):
        """The server goes, and comes back after so many seconds of the injected clock."""
        self.server.stop()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0
        self.clock.at(seconds, self.back)

    def back(self):
        self.server = EmbeddedServer(self.data, port=self.port, adder_delay_s=0.01)
        self.server.start()

    def finish(self, patience_s=3600):
        report = '{"%s": {"guid": "g", "fsize": 1, "adler32": "00000001"}}' % self.log
        fields = {"job_status": "finished", "pilot_error_code": 0, "job_output_report": report}
        self.reporter.final(fields, Deadline.after(patience_s, self.clock))

    def verdict(self):
        message = self.message()
        assert isinstance(message, Reported), message
        return message.verdict

    def finals(self):
        return [one for one in self.status()["history"] if one["call"] == "update_job" and one["state"] == "finished"]

    def close(self):
        self.reporter.finish(Deadline.after(PATIENCE))
        self.server.stop()
        self.session.close()
        self.stop.close()


@pytest.mark.parametrize("seconds", [5, 60, 300, 1800])
def test_a_final_that_falls_into_an_outage_is_stored_once(world, seconds):
    world.away(seconds)
    began = world.clock.monotonic()
    world.finish()
    assert world.verdict() is Verdict.STORED
    assert world.clock.monotonic() - began >= seconds
    assert len(world.finals()) == 1
    until(lambda: world.state() == "finished", what="the server's verdict")


@pytest.mark.parametrize("seconds", [5, 60, 300, 1800])
def test_an_outage_before_the_final_costs_heartbeats_only(world, seconds):
    world.away(seconds)
    world.reporter.phase({"job_status": "running", "job_sub_status": "in the outage"})
    until(lambda: world.clock.monotonic() - 1000 > seconds, what="end of the outage")
    until(lambda: len(world.status()["history"]) >= 4, what="a heartbeat after the outage")
    world.finish()
    assert world.verdict() is Verdict.STORED
    assert len(world.finals()) == 1


CUT = {"do": "status", "status": 200, "body": '{"success": true, "message": "", "da'}


@pytest.mark.parametrize(
    "fault", [{"do": "drop_after"}, {"do": "drop_before"}, {"do": "garbage"}, {"do": "status"}, CUT], ids=str
)
def test_a_final_whose_answer_is_lost_or_unreadable_is_stored_once(world, fault):
    rule = {"match": "update_job", "state": "finished", "count": 3, **fault}
    world.call("POST", "/local/faults", json=[rule])
    world.clock.at(0, lambda: None)
    world.finish()
    assert world.verdict() in (Verdict.STORED, Verdict.ALREADY_DONE, Verdict.GONE)
    until(lambda: world.state() == "finished", what="the server's verdict")
    adder = [one for one in world.status()["history"] if one["call"] == "adder"]
    assert len(adder) == 1


def test_success_with_status_code_30_is_not_success(world):
    body = '{"success": true, "message": "Database error", "data": {"StatusCode": 30}}'
    rule = {"match": "update_job", "state": "finished", "do": "status", "status": 200, "body": body, "count": 2}
    world.call("POST", "/local/faults", json=[rule])
    world.clock.at(0, lambda: None)
    world.finish()
    assert world.verdict() is Verdict.STORED
    assert len(world.finals()) == 1


def test_a_final_is_given_up_when_its_time_is_over_and_not_before(world):
    world.server.stop()
    world.clock.at(10_000, lambda: None)
    began = world.clock.monotonic()
    world.finish(patience_s=600)
    assert world.verdict() is Verdict.GAVE_UP
    assert 600 <= world.clock.monotonic() - began < 800
    world.back()
    assert world.state() == "running"


def test_a_refused_final_is_sent_once_more_with_its_core_and_then_left(world):
    body = '{"success": false, "message": "Type error: x", "data": null}'
    rule = {"match": "update_job", "state": "finished", "do": "status", "status": 200, "body": body, "count": 5}
    world.call("POST", "/local/faults", json=[rule])
    world.clock.at(0, lambda: None)
    world.finish()
    assert world.verdict() is Verdict.REFUSED
    assert world.call("GET", "/local/faults")["rules"][0]["met"] == 2


def test_a_kill_pulls_the_jobs_stop_and_its_final_still_counts(world):
    world.call(
        "POST", "/api/v1/job/kill", data='{"job_ids": [%d]}' % world.job, headers={"Content-Type": "application/json"}
    )
    world.reporter.phase({"job_status": "running"})
    until(lambda: world.stop.reason is Reason.TOBEKILLED, what="the kill")
    world.reporter.final({"job_status": "failed", "pilot_error_code": 1144}, Deadline.after(60, world.clock))
    assert world.verdict() is Verdict.GONE
    until(lambda: world.state() == "cancelled", what="the server's verdict")


def test_heartbeats_keep_their_interval_on_the_clock(world):
    before = len(world.status()["history"])
    world.clock.horizon = world.clock.monotonic() + 3000
    world.reporter.note({"job_status": "running"})
    until(lambda: len(world.status()["history"]) >= before + 9, what="heartbeats")
    assert len(world.status()["history"]) <= before + 12
