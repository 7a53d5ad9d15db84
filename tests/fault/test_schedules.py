"""A sample of the seeded schedules, the runners that must be caught, and the server away for hours (show 6).

All of them are tests/fault/schedules/; `make soak` runs ten thousand.
"""

import pytest

from pilot.embedded.faults import Kind, Rule
from tests.fault.schedules.broken import BROKEN, first_caught
from tests.fault.schedules.judge import quiet, run
from tests.fault.schedules.script import Life, Move, Script, script_of
from tests.fault.schedules.world import Make

SAMPLE = 200
MOST = 150
THREE_HOURS = 3 * 3600
AWAY = f"away {THREE_HOURS}"
PATIENT = Make(settings={"patience": 4 * 3600.0})


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


def lived(*lives, make=None, **more):
    """What came of these lives; nothing may be broken."""
    result = run(Script(lives=lives, **more), make=make)
    assert result.violations == []
    return result


def states(result):
    return [attempt.state for attempt in result.attempts]


def said(result):
    """The finals that were tried, without repetitions, of each attempt."""
    return [[*dict.fromkeys(final.state for final in attempt.finals)] for attempt in result.attempts]


def test_a_schedule_without_a_fault_finishes():
    result = lived(Life(), inputs=2, outputs=2)
    assert (states(result), said(result)) == (["finished"], [["finished"]])
    assert result.met["file moved out"] == 2


@pytest.mark.parametrize("block", range(4))
def test_no_schedule_breaks_a_promise(block):
    size = SAMPLE // 4
    broken = {}
    for seed in range(1 + block * size, 1 + (block + 1) * size):
        if found := run(script_of(seed), seed).violations:
            broken[seed] = [*map(str, found)]
    assert broken == {}


def test_a_schedule_is_the_same_again():
    once, again = (run(script_of(7), 7) for _ in range(2))
    assert once.met == again.met
    assert [[call.call for call in one.updates] for one in once.attempts] == [
        [call.call for call in one.updates] for one in again.attempts
    ]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_runner_is_caught(name):
    count, found = first_caught(BROKEN[name], range(1, 1 + MOST))
    assert found, f"not within {count} schedules"


# Three hours without the server: it is down, and watches nobody meanwhile


def test_a_server_that_is_down_for_three_hours_in_the_payload_costs_nothing():
    result = lived(Life({"running>": AWAY}, payload_s=4 * 3600), outputs=2, watching=False)
    assert states(result) == ["finished"]
    assert result.met["file moved out"] == 2


def test_after_three_hours_without_the_server_it_is_asked_before_outputs_go_out():
    result = lived(Life({"running>": AWAY}, payload_s=9000), watching=False)
    calls = [call.call for call in result.attempts[0].updates]
    assert (states(result), said(result)) == (["finished"], [["finished"]])
    assert len(calls) < 6  # two phases, what came after, and the final: no heartbeat got through


def test_a_final_that_falls_into_three_hours_without_the_server_is_said_by_the_same_pilot():
    result = lived(Life({"finished<": AWAY}), make=PATIENT, watching=False)
    assert (states(result), said(result)) == (["finished"], [["finished"]])
    assert result.met["recovered"] == 0


def test_a_final_that_outlasts_the_patience_is_said_by_the_next_pilot():
    result = lived(Life({"finished<": "away 9000"}), Life(after_s=7200), watching=False)
    assert (states(result), said(result)) == (["finished"], [["finished"]])
    assert result.met["recovered"] == 1


# A partition: the server goes on without us, and its answer is lost


def test_a_final_whose_answer_is_lost_in_a_partition_is_the_only_one():
    result = lived(Life({"finished>": AWAY}), make=PATIENT)
    assert (states(result), said(result)) == (["finished"], [["finished"]])
    assert len(result.attempts[0].finals) > 1


@pytest.mark.parametrize("prompt", [True, False])
def test_a_final_whose_answer_is_lost_with_the_pilot_is_the_only_one(prompt):
    result = lived(Life({"finished>": "crash"}), Life(after_s=THREE_HOURS), prompt=prompt)
    assert said(result) == [["finished"]]


def test_every_answer_that_can_be_lost_may_be_lost_twice():
    rules = [Rule("/api/v1/pilot/update_job", Kind.DROP_AFTER, count=2, state=one) for one in ("running", "finished")]
    result = lived(Life(), rules=tuple(rules))
    assert (states(result), said(result)) == (["finished"], [["finished"]])


# The attempt is given to another pilot meanwhile


def test_an_attempt_that_was_given_away_in_a_partition_is_dropped_without_stage_out():
    result = lived(Life({"running>": AWAY}, payload_s=9000), outputs=2, attempts=2)
    assert states(result) == ["failed", "finished"]
    assert result.met["file moved out"] == 0


def test_an_attempt_that_was_given_away_is_dropped_by_the_next_pilot_too():
    result = lived(Life({"exited>": "crash"}), Life(after_s=THREE_HOURS), outputs=2, attempts=2)
    assert (states(result), said(result)) == (["failed", "finished"], [[], ["finished"]])
    assert result.met["file moved out"] == result.met["log moved out"] == 0


def test_a_final_of_an_attempt_that_was_given_away_changes_nothing():
    result = lived(Life({"finished<": AWAY}), attempts=2, make=PATIENT)
    assert states(result) == ["failed", "finished"]


def test_without_a_rival_the_pilot_takes_the_next_attempt_itself():
    result = lived(Life({"exited>": "crash"}), Life(after_s=THREE_HOURS), attempts=2, rival=False)
    assert (states(result), said(result)) == (["failed", "finished"], [[], ["finished"]])


def test_an_attempt_that_is_given_away_while_outputs_go_out_ends_once():
    result = lived(Life({"out|": "taken"}, {2: Move(seconds=400)}), outputs=2, attempts=2)
    assert states(result) == ["failed", "finished"]
