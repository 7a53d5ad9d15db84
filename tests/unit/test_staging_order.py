"""Orders, and texts without secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.staging.order import Around, Order, path_of, plain


def test_an_order_is_read_from_the_parents_line():
    line = {"source": "root://h//f", "destination": "file:///w/a%20b", "size": 3, "checksum": "md5:ff", "link": True}

    order = Order.parse(line)

    assert order == Order("root://h//f", "file:///w/a%20b", 3, ("md5", "ff"), link=True)
    assert path_of(order.destination) == "/w/a b"


def test_an_order_may_know_neither_size_nor_checksum():
    line = {"source": "a", "destination": "b", "size": None, "checksum": None}

    assert Order.parse(line) == Order("a", "b", None, None, link=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/f?authz=secret&x=1: HTTP 403", "https://host/f HTTP 403"),
        ("root://secret@host:1094//f", "root://host:1094//f"),
        ("https://me:secret@host/f#secret gone", "https://host/f gone"),
        (
            "Max retries exceeded with url: /f?X-Amz-Signature=secret (Caused by x)",
            "Max retries exceeded with url: /f (Caused by x)",
        ),
        ("no such\nfile,\tauthz=secret", "no such file,"),
    ],
)
def test_a_message_shows_no_secret_of_a_url_and_is_one_line(text, shown):
    assert plain(text).rstrip() == shown


@given(st.text())
def test_any_text_becomes_one_short_line(text):
    shown = plain("x " + text)

    assert "\n" not in shown
    assert len(shown) <= 500


def test_a_lane_has_limits_even_if_nobody_set_them():
    around = Around.read({})

    assert (around.connect_s, around.idle_s) == (15, 60)
    assert around.verify_s(5_000_000_000) == 160
