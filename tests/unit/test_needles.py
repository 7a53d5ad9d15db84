"""Many needles are found at once, wherever they stand, and as fast in a text that is full of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.values.needles import Needles

FEW_LETTERS = st.binary(min_size=1, max_size=30).map(lambda text: bytes(b"abc"[byte % 3] for byte in text))


def covered(places):
    """The bytes that the places cover."""
    return {at for one in places for at in range(one.start, one.end)}


def slowly(needles, text):
    """The same by looking at every byte."""
    return {
        at + more
        for needle in needles
        for at in range(len(text))
        if text.startswith(needle, at)
        for more in range(len(needle))
    }


@given(st.lists(FEW_LETTERS, max_size=80, unique=True), st.lists(FEW_LETTERS, max_size=20), st.integers(0, 20))
def test_every_occurrence_is_covered_and_nothing_else(needles, around, shift):
    # Given a text of the needles themselves, which overlap in all ways as they have three letters only
    text = b"." * shift + b"".join(part for pair in zip(needles, [*around, *needles], strict=False) for part in pair)
    # Then what is found is what a slow search finds
    assert covered(Needles.of(needles).find(text)) == slowly(needles, text)


@pytest.mark.parametrize("count", [1, 149, 150, 151, 500])
@given(data=st.data())
def test_a_needle_is_found_at_any_place_among_any_number_of_others(count, data):
    needles = [b"%09d-needle-%d" % (number * 7919, number) for number in range(count)]
    needle = data.draw(st.sampled_from(needles))
    before = data.draw(st.integers(0, 40))
    found = Needles.of(needles).find(b"x" * before + needle + b"y" * data.draw(st.integers(0, 40)))
    assert set(range(before, before + len(needle))) <= covered(found)


@pytest.mark.parametrize("text", [b"aabaaabaa", b"aabaabaaabaaabaabaa", b"xaabaabaaay"])
def test_occurrences_that_overlap_in_several_ways_are_covered(text):
    assert covered(Needles.of([b"aabaa"]).find(text)) == slowly([b"aabaa"], text)


@pytest.mark.parametrize("needle", [b"aaaaaa", b"ab" * 40, b"0" * 128])
def test_a_text_full_of_a_needle_that_overlaps_itself_is_one_place(needle):
    others = [b"%020x-other" % number for number in range(1000, 1200)]
    text = b"-" + needle * (1 << 16) + b"-"
    assert [(one.start, one.end) for one in Needles.of([needle, *others]).find(text)] == [(1, len(text) - 1)]
