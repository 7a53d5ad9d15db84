"""The look at an upload: what is wrong is told, and what cannot be known does not pass as verified."""

from __future__ import annotations

import pytest

from pilot.staging.checksum import Digest
from pilot.staging.remote import deleted_on_error, verify
from pilot.values.errors import Denied, Mismatch, StageError


def test_a_server_that_tells_nothing_has_verified_nothing():
    with pytest.raises(Mismatch, match="neither size nor checksum"):
        verify("https://host/f", Digest(), lambda: (None, None))


def test_a_checksum_is_enough_without_a_size():
    assert verify("https://host/f", Digest(), lambda: (None, "00000001")).verified == "checksum"


def test_a_file_that_shows_up_late_is_asked_for_again():
    digest = Digest()
    digest.update(b"content")
    answers = iter([(0, None), (7, digest.adler32)])

    assert verify("root://host//f", digest, lambda: next(answers)).verified == "checksum"


@pytest.mark.parametrize(("error", "deleted"), [(Mismatch("x"), [True]), (Denied("x"), [])])
def test_a_failed_upload_is_deleted_unless_it_was_refused(error, deleted):
    calls: list[bool] = []

    with pytest.raises(StageError), deleted_on_error(lambda: calls.append(True)):
        raise error

    assert calls == deleted
