"""Patience with storages that ask to be left alone, or go on failing: it ends with their own word, and in time."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest

from pilot.staging.worker.web.calls import pause_s
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError, Stalled, Unreachable

CONTENT = b"content"
PATIENCE_S, IDLE_S, SLACK_S = 1.5, 1.0, 2.0
FUTURE, PAST = "Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"
RETRY_AFTER = ["0", "1", "300", "1000000000", "9" * 30, "-5", "NaN", "inf", "1e9", "", "soon", FUTURE, PAST]


@pytest.mark.parametrize("text", RETRY_AFTER)
def test_an_output_is_given_up_when_patience_is_over_whatever_is_asked_for(text, faults, open_lanes, upload, stop):
    lanes = open_lanes(patience_s=PATIENCE_S, idle_s=IDLE_S)
    began = time.monotonic()

    with pytest.raises(Unreachable, match="HTTP 503") as caught:
        lanes.move(upload(faults.url(f"later/{quote(text)}/x"), CONTENT), Deadline.after(60), stop)

    assert time.monotonic() - began < PATIENCE_S + IDLE_S + SLACK_S
    assert caught.value.code == 1137
    assert sum(one.startswith("/later") for one in faults.requests) >= 2, "once more at the end of patience"


@pytest.mark.parametrize(("path", "kind", "code"), [("stuckput/x", Stalled, 1152), ("silent/x", Stalled, 1152)])
def test_a_storage_that_hangs_costs_one_limit_beyond_patience_at_most(
    path, kind, code, faults, open_lanes, upload, stop
):
    lanes = open_lanes(patience_s=PATIENCE_S, idle_s=IDLE_S)
    began = time.monotonic()

    with pytest.raises(kind) as caught:
        lanes.move(upload(faults.url(path), b"x" * (4 << 20)), Deadline.after(60), stop)

    assert time.monotonic() - began < PATIENCE_S + IDLE_S + IDLE_S + SLACK_S, "the first limit is met before patience"
    assert caught.value.code == code


@pytest.mark.parametrize("patience_s", [0.0, 0.3, 1.0])
def test_an_input_ends_with_the_storages_word_and_not_with_a_fault_of_ours(
    patience_s, faults, open_lanes, download, stop
):
    lanes = open_lanes(patience_s=patience_s)

    with pytest.raises(StageError) as caught:
        lanes.move(download(faults.url("later/1/x")), Deadline.after(60), stop)

    assert (type(caught.value), caught.value.code) == (Unreachable, 1099)


def test_a_storage_that_comes_back_within_patience_gets_its_output(faults, open_lanes, upload, stop):
    moved = open_lanes(patience_s=30).move(upload(faults.url("busy/2/1"), CONTENT), Deadline.after(60), stop)

    assert moved.size == len(CONTENT)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("1000000000", 300), ("9" * 5000, 300), ("-5", 0), ("NaN", 0), ("", 0), (FUTURE, 300), (PAST, 0)],
)
def test_what_is_asked_for_is_read_as_a_time_that_can_be_waited(text, seconds):
    assert pause_s(text) == seconds
