"""When points are asked for, and for how long to wait for them."""

import math

import pytest

from pilot.runner.hpo.pacing import Pace, Patience, advice


def a_pace(seconds: list[float], trip: float | None = 0.3) -> Pace:
    pace = Pace()
    pace.seconds.extend(seconds)
    if trip is not None:
        pace.round_trips.append(trip)
    return pace


def test_a_short_evaluation_has_its_successor_asked_for_before_it_ends():
    assert a_pace([1.0, 1.0, 1.2]).ahead_at(100.0) == pytest.approx(100.0 + 1.0 - 0.45)


@pytest.mark.parametrize("pace", [a_pace([600.0]), a_pace([]), a_pace([1.0], None)], ids=["long", "first", "no trip"])
def test_nothing_is_fetched_ahead_of_a_long_or_unknown_evaluation(pace: Pace):
    assert pace.ahead_at(100.0) == math.inf


def test_no_point_is_taken_that_nine_of_ten_evaluations_say_cannot_end():
    pace = a_pace([10.0] * 8 + [60.0, 300.0])
    assert pace.can_end(70)
    assert not pace.can_end(60)
    assert a_pace([]).can_end(1)


def test_waiting_ends_sooner_when_nobody_evaluates_any_more():
    patience = Patience(generation_s=900, steering_s=600, pause_s=30)
    assert not patience.over(0)
    due = [patience.nothing(now) - now for now in (0.0, 1.0, 2.0, 10.0, 100.0, 200.0, 300.0, 400.0, 500.0)]
    assert due == sorted(due)
    assert due[0] <= 1
    assert due[-1] == 30
    assert not patience.over(700)
    patience.all_evaluated = True
    assert patience.over(700)
    patience.came()
    assert not patience.over(10_000)


@pytest.mark.parametrize(
    ("points", "slots", "text"), [(10, 8, "62 %"), (16, 8, ""), (8, 8, ""), (3, 1, ""), (9, 8, "56 %"), (0, 8, "")]
)
def test_advice_names_the_share_of_time_that_a_generation_uses(points: int, slots: int, text: str):
    assert text in advice(points, slots)
    assert bool(advice(points, slots)) == bool(text)
