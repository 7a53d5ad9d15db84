"""Orders, and texts without secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.staging.order import Around, Order, path_of, plain


def test_an_order_is_read_from_the_parents_line(tmp_path):
    (tmp_path / "token").write_text("very.secret.token\n")
    line = {
        "source": "root://h//f",
        "destination": "file:///w/a%20b",
        "size": 3,
        "checksum": "md5:ff",
        "link": True,
        "credential": {"source": {"token_file": str(tmp_path / "token"), "certificate": "/c"}},
    }

    order = Order.parse(line)

    assert (order.source.token, order.source.certificate) == ("very.secret.token", "/c")
    assert (order.size, order.checksum, order.kind) == (3, ("md5", "ff"), "md5")
    assert (order.link, order.overwrite, order.third_party) == (True, False, "")
    assert path_of(order.destination.url) == "/w/a b"
    assert "secret" not in repr(order)


def test_an_order_may_know_neither_size_nor_checksum():
    order = Order.parse({"source": "a", "destination": "b", "size": None, "checksum": None})

    assert (order.size, order.checksum, order.kind, order.source.token) == (None, None, "adler32", "")


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
