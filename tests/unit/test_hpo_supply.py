"""The supply of points: a question that gets no answer is given up, whatever else goes on."""

import math
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from pilot.payload.environment import Grant
from pilot.runner.hpo.book import Lease, Tally
from pilot.runner.hpo.slots import Slot, Slots
from pilot.runner.hpo.supply import Supply
from pilot.values.deadline import Deadline
from pilot.values.hpo import Point
from tests.pods import a_pod


class Service:
    """Counts what it is asked for, and never answers."""

    def __init__(self):
        self.asked = []

    def take(self, count):
        self.asked.append(count)


@pytest.fixture
def supplied(tmp_path):
    """A supply for so many slots, its tally and its service."""

    def make(patience, slots=1):
        pod = stack.enter_context(a_pod(tmp_path, patience=patience))
        service, tally = Service(), Tally()
        asked = SimpleNamespace(most_points=None, checkpoints=None)
        places = Slots([Slot(number, Grant(1, 1, 1)) for number in range(slots)])
        return Supply(asked, places, service, pod, Deadline.never(), tally), tally, service

    with ExitStack() as stack:
        yield make


def test_a_question_without_an_answer_is_given_up_while_an_evaluation_goes_on(supplied):
    supply, tally, service = supplied(patience=0.0, slots=2)
    running = [SimpleNamespace(began=0.0, ending=None)]
    supply.ask(running)
    assert service.asked == [2]

    supply.ask(running)

    assert "no answer within 0 s" in tally.refused
    assert math.isinf(supply.next_question(running).left())  # nobody comes to look again and again


def test_a_patient_supply_waits_for_its_answer(supplied):
    supply, tally, service = supplied(patience=60.0)

    supply.ask([])
    supply.ask([])

    assert (service.asked, tally.refused) == ([1], "")
    assert 50 < supply.next_question([]).left() <= 60


def test_a_point_that_could_not_be_begun_comes_first_again(supplied):
    supply, _, _ = supplied(patience=60.0)
    first, second = (Lease(str(n), Point(str(n), {}), n) for n in range(2))
    for lease in (second, first):
        supply.back(lease)

    assert [lease.id for lease, _ in supply.placed({})] == ["0", "1"]
