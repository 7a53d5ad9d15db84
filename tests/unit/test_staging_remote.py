"""The look at an upload: what is wrong is told, and what cannot be known does not pass as verified."""

from __future__ import annotations

import pytest

from pilot.staging.worker.remote import deleted_on_error, removal, stored
from pilot.staging.worker.tool import Stat
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch, StageError, TransferFailed, Unreachable


def test_a_server_that_tells_nothing_has_verified_nothing():
    with pytest.raises(TransferFailed, match="neither size nor checksum"):
        stored("https://host/f", 0, lambda: Stat(None, None))


@pytest.mark.parametrize(
    ("now", "removed"),
    [
        (Stat(3, "00000001"), False),
        (Stat(3, None), False),
        (Stat(2, None), True),
        (Stat(3, "00000002"), True),
        (FileMissing("x"), False),
        (Denied("x"), False),
        (Unreachable("x"), False),
    ],
)
def test_an_old_file_is_removed_only_if_it_is_surely_another_by_now(now, removed):
    calls: list[bool] = []

    def look() -> Stat:
        if isinstance(now, StageError):
            raise now
        return now

    removal(look, lambda: calls.append(True), Stat(3, "00000001"))()
    removal(look, lambda: calls.append(True), Stat(None, None))()

    assert calls == [True] * removed


def test_a_file_that_shows_up_late_is_asked_for_again():
    answers = iter([Stat(0, None), Stat(7, "0b2f02d3")])

    assert stored("root://host//f", 7, lambda: next(answers)) == Stat(7, "0b2f02d3")


def test_an_empty_file_is_not_waited_for():
    answers = iter([Stat(0, "00000001")])

    assert stored("root://host//f", 0, lambda: next(answers)) == Stat(0, "00000001")


@pytest.mark.parametrize(("error", "deleted"), [(Mismatch("x"), [True]), (Denied("x"), [])])
def test_a_failed_upload_is_deleted_unless_it_was_refused(error, deleted):
    calls: list[bool] = []

    with pytest.raises(StageError), deleted_on_error(lambda: calls.append(True)):
        raise error

    assert calls == deleted


def test_after_a_third_party_copy_a_missing_source_may_have_left_an_empty_target():
    calls: list[bool] = []

    with pytest.raises(StageError), deleted_on_error(lambda: calls.append(True), spared=(Exists,)):
        raise Denied("x")

    assert calls == [True]
