"""When a transfer is tried again, and how it ends: decided at one moment, on a clock that stands or jumps."""

from __future__ import annotations

import math

import pytest

from pilot.staging.lanes.standing import Standing
from pilot.staging.lanes.task import OutOfTimeError, Task
from pilot.staging.transfer import Hop, Route, Transfer
from pilot.values.deadline import Clock, Deadline
from pilot.values.errors import Denied, Mismatch, NoSpace, StageError, Stalled, Unreachable
from pilot.values.names import Url

PATIENCE_S, TOTAL_S = 6.0, 3600.0


class RunningClock(Clock):
    """Each look at it costs time, as on a machine that has other things to do."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s = 1000.0
        self.step_s = step_s

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def transfer(direction: str = "out", ways: int = 1) -> Transfer:
    routes = tuple(Route((Hop(Url("file:///w/f"), Url(f"https://s{n}.example/f")),)) for n in range(ways))
    return Transfer("f", direction, routes)


def a_task(clock: Clock, patience_s: float | None = PATIENCE_S, total_s: float = TOTAL_S, **more: object) -> Task:
    return Task(transfer(**more), Standing(), Deadline.never(clock), total_s, patience_s)  # type: ignore[arg-type]


def asked_to_wait(kind: type[StageError], pause_s: float) -> StageError:
    error = kind("f: HTTP 503", "out")
    error.pause_s = pause_s
    return error


def lived(task: Task, clock: RunningClock, error: StageError, try_s: float = 0.1) -> tuple[float, int]:
    """Fail each try with the same error, until the end: after how many seconds it came, and tries."""
    began, tries = clock.now_s, 0
    while task.end is None and tries < 10_000:
        clock.now_s = max(clock.now_s, task.not_before.at)
        step = task.step()
        tries += 1
        clock.now_s += try_s
        task.failed(step, error)
    return clock.now_s - began, tries


@pytest.mark.parametrize("step_s", [0.0, 1e-6, 0.01, 1.0])
@pytest.mark.parametrize("pause_s", [0.0, 1.0, PATIENCE_S - 1e-9, PATIENCE_S, PATIENCE_S + 1e-9, 300.0, 1e9])
@pytest.mark.parametrize("kind", [Unreachable, Stalled])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_patience_ends_with_the_storages_own_word_and_one_try_later_at_most(step_s, pause_s, kind, direction):
    clock = RunningClock(step_s)
    task = a_task(clock, direction=direction)
    error = asked_to_wait(kind, pause_s)

    seconds, tries = lived(task, clock, error, try_s=2.0)

    assert task.end is error
    assert seconds <= 2.0 + PATIENCE_S + 2.0 + 40 * step_s
    assert tries >= 2
    if direction == "in":
        assert tries <= 3


def test_the_last_pause_is_cut_to_what_is_left_and_used_for_one_more_try():
    clock = RunningClock()
    task = a_task(clock)
    task.failed(task.step(), asked_to_wait(Unreachable, 300.0))

    assert task.end is None
    assert task.not_before.at == clock.now_s + PATIENCE_S
    assert task.limit.at == 1000.0 + TOTAL_S


def test_patience_begins_when_the_last_byte_has_moved():
    clock = RunningClock()
    task = a_task(clock)
    step = task.step()
    clock.now_s += 3600  # a large file, most of which went well
    task.failed(step, asked_to_wait(Stalled, 300.0), silent_s=4.0)

    assert task.not_before.at == clock.now_s + PATIENCE_S - 4.0


def test_a_limit_of_all_tries_that_comes_first_leaves_room_for_one_more_try_or_ends_it():
    clock = RunningClock()
    task = a_task(clock, patience_s=1e6, total_s=10.0)
    error = asked_to_wait(Unreachable, 300.0)
    seconds, tries = lived(task, clock, error)

    assert task.end is error
    assert seconds <= 10.0
    assert tries > 1


def test_the_end_of_the_callers_time_keeps_the_storages_word():
    clock = RunningClock()
    task = Task(transfer(), Standing(), Deadline(clock.now_s + 20, clock), TOTAL_S, PATIENCE_S)
    task.failed(task.step(), asked_to_wait(Unreachable, 1.0))
    step = task.step()
    clock.now_s += 30
    task.failed(step, OutOfTimeError("f: the time that was left is over", "out"))

    assert isinstance(task.end, Unreachable)
    assert not isinstance(task.end, OutOfTimeError)
    assert "HTTP 503" in str(task.end)


@pytest.mark.parametrize(("kind", "tries"), [(Unreachable, 3), (Mismatch, 2), (Denied, 1), (NoSpace, 1)])
def test_without_patience_the_number_of_tries_decides(kind, tries):
    clock = RunningClock(0.01)
    task = a_task(clock, patience_s=None)
    error = asked_to_wait(kind, 0.0)

    assert lived(task, clock, error)[1] == tries
    assert task.end is error


def test_without_any_patience_it_is_tried_once_each_way():
    clock = RunningClock(0.01)
    task = a_task(clock, patience_s=0.0, ways=3)

    assert lived(task, clock, asked_to_wait(Unreachable, 5.0))[1] == 3
    assert isinstance(task.end, Unreachable)
    assert "none of 3 ways worked" in str(task.end)


def test_a_way_that_was_never_tried_is_tried_however_long_the_others_took():
    clock = RunningClock()
    task = a_task(clock, ways=2)
    first = task.step()
    clock.now_s += 100
    task.failed(first, asked_to_wait(Stalled, 300.0), silent_s=100)

    assert task.end is None
    assert task.not_before.at <= clock.now_s
    assert task.step().hop != first.hop


@pytest.mark.parametrize("pause_s", [math.inf, math.nan, -1.0, -math.inf])
def test_a_pause_that_is_no_time_is_no_reason_to_wait_for_ever(pause_s):
    clock = RunningClock()
    task = a_task(clock)

    seconds, _ = lived(task, clock, asked_to_wait(Unreachable, pause_s))

    assert isinstance(task.end, Unreachable)
    assert seconds <= PATIENCE_S + 1
