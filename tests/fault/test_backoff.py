"""What ends a pause before its time: an answer to somebody else, and a new credential. The clock stands meanwhile."""

import random
import threading
import time
from contextlib import closing

import pytest

from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Transport
from pilot.panda.client import PandaClient, Question
from pilot.panda.messages import Known
from pilot.panda.report import Followed, Pace
from pilot.panda.reporter import Reporter
from pilot.panda.wire import Wire
from pilot.runner.hpo.errands import Errands
from pilot.values.deadline import Deadline
from pilot.values.errors import ServerUnavailable
from pilot.values.stop import Stop
from tests.fault.clock import JumpingClock
from tests.fault.scripted import Scripted
from tests.lab import until

GARBAGE = b'{"success": tr'
REFUSED = {"success": False, "message": "no production/pilot role in the token", "data": None}


class Longest(random.Random):
    """Draws the longest of all pauses."""

    def uniform(self, _a, b):
        return b


class World:
    def __init__(self, folder):
        self.server = Scripted()
        self.token = folder / "token"
        self.token.write_text("old")
        files = CredentialFiles(token=str(self.token), origin="vo.role")
        credentials = Credentials(files, lambda _: None, time.time)
        wire = Wire(Transport(self.server.url), self.server.url, "test", credentials)
        self.reporter = Reporter(PandaClient(wire), pace=Pace(1800, 60), clock=JumpingClock(), rng=Longest(1))
        self.reporter.start()
        self.stop = Stop()

    def follow(self):
        self.reporter.follow(Followed({"job_id": 1, "attempt_nr": 1, "node": "n"}, self.stop))
        self.reporter.phase({"job_status": "running"})

    def ask(self):
        """A call of somebody else's, which is answered."""
        self.reporter.ask_status(1)
        assert isinstance(self.reporter.mailbox.get(Deadline.after(10)), Known)

    def close(self):
        self.reporter.finish(Deadline.after(10))
        self.server.close()
        self.stop.close()


@pytest.fixture
def world(tmp_path):
    with closing(World(tmp_path)) as made:
        yield made


def told(world, count):
    until(lambda: len(world.server.updates) >= count, 10, f"update {count}")
    return len(world.server.updates)


def test_an_answer_to_somebody_else_ends_the_pause_of_an_update(world):
    world.server.tell("update_job", GARBAGE)
    world.follow()
    assert told(world, 1) == 1

    world.ask()

    assert told(world, 2) == 2


def test_it_does_so_once_in_a_row_of_failures(world):
    world.server.tell("update_job", GARBAGE, GARBAGE, GARBAGE)
    world.follow()
    told(world, 1)
    world.ask()
    told(world, 2)

    for _ in range(3):
        world.ask()

    assert len(world.server.updates) == 2, "what fails for itself alone has its own pace"


def test_an_answer_that_fails_as_well_ends_no_pause(world):
    world.server.tell("update_job", GARBAGE)
    world.server.tell("get_job_status", GARBAGE)
    world.follow()
    told(world, 1)

    world.reporter.ask_status(1)
    until(lambda: world.server.left("get_job_status") == 0, 10, "the question")

    assert len(world.server.updates) == 1


def test_the_pause_after_a_job_that_may_be_lost_stays(world):
    world.server.tell("acquire_jobs", GARBAGE, GARBAGE)
    world.reporter.acquire(Question("LOCAL", "managed", "node", "LOCAL"), lost_s=600)
    until(lambda: world.server.left("acquire_jobs") == 1, 10, "the question")

    for _ in range(2):
        world.ask()

    assert world.server.left("acquire_jobs") == 1


@pytest.mark.parametrize("how", ["written", "renamed"])
def test_a_renewed_token_ends_the_pause_of_who_was_refused(world, how):
    world.server.tell("update_job", REFUSED)
    world.follow()
    told(world, 1)

    if how == "written":
        world.token.write_text("new")
    else:
        fresh = world.token.with_suffix(".new")
        fresh.write_text("new")
        fresh.rename(world.token)

    assert told(world, 2) == 2


class Lines:
    def interrupt(self):
        """Nothing is under way."""

    def close(self):
        """Nothing is open."""


class Hour(random.Random):
    def uniform(self, _a, _b):
        return 3600


def test_an_answer_to_another_errand_ends_a_pause_once():
    tries, over = [], threading.Event()
    errands = Errands(Lines, 2, lambda _: None, rng=Hour(1))

    def fails():
        tries.append(1)
        raise ServerUnavailable("away")

    try:
        errands.add(0, lambda _: errands.persist(fails))
        until(lambda: len(tries) == 1, 10)
        for _ in range(3):
            over.clear()
            errands.add(0, lambda _: errands.persist(over.set))
            assert over.wait(10)
        until(lambda: len(tries) == 2, 10)
        assert len(tries) == 2
    finally:
        began = time.monotonic()
        errands.shut()
    assert time.monotonic() - began < 1, "a pause does not hold up the end"
