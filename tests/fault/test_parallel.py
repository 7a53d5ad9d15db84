"""Payloads that run at once are told apart (promise P8): what one leaves is ended, and its neighbours never notice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault.test_zoo import AS_PID_1, UNIFIED, WITHOUT_GROUP, missing

pytestmark = pytest.mark.alone

SLOTS = Path(__file__).with_name("slots.py")
ROOT = Path(__file__).parents[2]
LIVED = {str(number): [10 + number, 1, 0, f"word {number}\n", []] for number in range(1, 8)}
"""Each neighbour's exit code, leftovers (its orphan), survivors, output; and that nobody of it lives in the end."""


@pytest.fixture(params=["with a group", "without", "without orphans", "as PID 1"])
def pilot(request, tmp_path):
    """Runs a scenario where the payload's processes are proven in one way or another; ``pilot.kind`` says which."""
    prefix, more = [], []
    if request.param != "with a group" and UNIFIED is not None:
        prefix = WITHOUT_GROUP if os.geteuid() == 0 else missing("root")
    elif request.param == "with a group" and (UNIFIED is None or os.geteuid() != 0):
        missing("root, and control groups of version 2")
    if request.param == "without orphans":
        more = ["--no-orphans"]
    if request.param == "as PID 1":
        prefix = [*prefix, *AS_PID_1] if os.geteuid() == 0 else missing("root")

    def run(scenario, *arguments):
        command = [*prefix, sys.executable, str(SLOTS), scenario, str(tmp_path), *(arguments or [""]), *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.kind = request.param
    return run


@pytest.mark.parametrize("animal", ["daemon", "orphans", "handover", "runaway", "deaf", "stopped"])
def test_an_animal_in_one_slot_is_ended_and_its_neighbours_live_on(pilot, animal):
    if (animal, pilot.kind) == ("runaway", "without orphans"):
        pytest.skip("who neither gets orphans nor has a group cannot catch it")
    found = pilot("animal", animal)
    code, leftovers, survivors = found["end"]
    stopped = animal in ("deaf", "stopped")
    assert (code in (-9, -15)) if stopped else (code == 0), found
    assert (leftovers == 0) if stopped else (leftovers > 0), found
    assert (survivors, found["dead"], found["carriers"]) == (0, [], [])
    assert found["neighbours"] == LIVED
    assert (found["swept"], found["children"]) == ([0, 0], 0)


def test_a_daemon_that_nothing_proves_lives_until_the_sweep(pilot):
    if pilot.kind == "without orphans":
        pytest.skip("who gets no orphans cannot find it")
    found = pilot("cleared")
    if pilot.kind == "with a group":  # which proves it
        assert (found["end"], found["after"], found["swept"]) == ([0, 1, 0], False, [0, 0])
    else:
        assert (found["end"], found["after"], found["swept"]) == ([0, 0, 0], True, [1, 0])
    assert found["at last"] is False
    assert found["neighbours"] == LIVED


def test_a_process_without_a_mark_that_was_seen_below_a_payload_is_the_payloads(pilot):
    found = pilot("seen")
    assert (found["end"], found["alive"]) == ([3, 1, 0], False)
    assert (found["neighbours"], found["swept"]) == (LIVED, [0, 0])


def test_a_signal_reaches_the_whole_tree_of_one_slot_only(pilot):
    found = pilot("told")
    assert found["before"] == [False, False]
    assert found["output"] == "ready\nsaved\n"
    assert (found["end"], found["dead"]) == ([-15, 0, 0], [])
    assert found["neighbours"] == LIVED


def test_to_kill_one_slot_kills_its_orphans_only(pilot):
    found = pilot("killed")
    assert (found["end"], found["left"], found["dead"]) == ([-9, 0, 0], [], [])
    assert found["neighbours"] == {number: end for number, end in LIVED.items() if number != "3"}
    assert (found["swept"], found["children"]) == ([0, 0], 0)


def test_no_exit_code_is_lost_when_all_have_ended_at_once(pilot):
    found = pilot("at_once")
    assert found["ends"] == {str(number): [number, 0, 0] for number in range(8)}
    assert found["outputs"] == [f"{number}\n" for number in range(8)]
    assert (found["swept"], found["children"]) == ([0, 0], 0)


def test_a_neighbour_whose_orphans_end_all_the_time_does_not_hold_up_a_clean_end(pilot):
    found = pilot("busy")
    assert found["ends"] == [[5, 0, 0]] * 20
    assert (found["running"], found["other"]) == (True, -9)


def test_a_clean_end_beside_seven_others(pilot, capsys):
    found = pilot("measure")
    assert found["ends"] == [[0, 0, 0]] * 30
    assert found["children"] == 0
    with capsys.disabled():
        for what, (median, worst) in found["ms"].items():
            beside = f"{found['processes']} processes on the machine"
            print(f"\n{pilot.kind}, {beside}: {what} of `true` {median:.1f} ms, at worst {worst:.1f} ms")
