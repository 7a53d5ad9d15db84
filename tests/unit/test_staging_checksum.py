"""Digest: what went by, and whether it is what was promised."""

from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.staging.order import Order, Side
from pilot.staging.worker.checksum import Digest
from pilot.values.errors import Md5Mismatch, Mismatch


def order(size: int | None = None, checksum: tuple[str, str] | None = None) -> Order:
    return Order(
        Side("https://host/f?authz=secret"),
        Side("file:///tmp/f"),
        size,
        checksum,
        link=False,
        overwrite=False,
        third_party="",
    )


@given(st.lists(st.binary()))
def test_the_sums_do_not_depend_on_the_pieces(chunks):
    digest = Digest(md5=True)
    for chunk in chunks:
        digest.update(chunk)

    whole = b"".join(chunks)
    assert digest.size == len(whole)
    assert digest.adler32 == f"{zlib.adler32(whole):08x}"
    assert digest.md5 == hashlib.md5(whole).hexdigest()


def test_a_digest_begins_again_after_a_reset():
    digest = Digest(md5=True)
    digest.update(b"sent to the wrong place")

    digest.reset()
    digest.update(b"x")

    assert (digest.size, digest.adler32) == (1, f"{zlib.adler32(b'x'):08x}")
    assert digest.md5 == hashlib.md5(b"x").hexdigest()


def test_md5_is_taken_only_if_the_catalogue_has_one():
    assert Digest.of(order(checksum=("md5", "0" * 32))).md5 is not None
    assert Digest.of(order(checksum=("adler32", "00000001"))).md5 is None


@pytest.mark.parametrize(
    ("expected", "error", "words"),
    [
        (order(size=1), Mismatch, "has 0 bytes, the catalogue says 1"),
        (order(checksum=("adler32", "00000002")), Mismatch, "adler32 is 00000001, the catalogue says 00000002"),
        (order(checksum=("md5", "0" * 32)), Md5Mismatch, "md5 is d41d8cd98f00b204e9800998ecf8427e"),
    ],
)
def test_a_difference_to_the_catalogue_names_both_and_no_secret(expected, error, words):
    with pytest.raises(error, match=words) as caught:
        Digest.of(expected).check(expected, expected.source.url)

    assert "secret" not in str(caught.value)


def test_what_verified_a_file_is_told():
    assert Digest().check(order(size=0), "f").verified == "size"
    assert Digest().check(order(checksum=("adler32", "00000001")), "f").verified == "checksum"
    assert Digest().agree("f", 0, None).verified == "size"
    assert Digest().agree("f", 0, "00000001").verified == "checksum"


@pytest.mark.parametrize(("size", "told"), [(1, None), (0, "00000002")])
def test_a_difference_to_what_the_server_has_is_a_mismatch(size, told):
    with pytest.raises(Mismatch, match="there"):
        Digest().agree("f", size, told)
