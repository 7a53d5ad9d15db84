"""JSON that somebody else wrote becomes a bounded value, or `Garbled`, and nothing else."""

import base64
import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pilot.net.credentials import claims_of
from pilot.values.decoding import DOCUMENT, LOOSE, STRICT, Rules, decode_json, decode_literal, decode_loosely
from pilot.values.errors import Garbled, NotJson

RULES = [STRICT, DOCUMENT, LOOSE]
TRAPS = {
    "lists 50,000 deep": "[" * 50_000 + "]" * 50_000,
    "objects 50,000 deep": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "lists without an end": "[" * 300_000,
    "deeper than any rule": "[" * 101 + "]" * 101,
    "half a text": '{"a": "',
    "nothing": "",
    "blanks": " \n\t",
    "two values": "1 2",
    "a Python literal": "{'a': 1}",
    "a comment": "1 // one",
    "a control character in a text": '"a\nb"',
    "more than is read": '"' + "x" * (33 << 20) + '"',
    "empty lists in millions": "[" + ",".join(["[]"] * 3_000_001) + "]",
}


@pytest.mark.parametrize("rules", RULES, ids=["strict", "document", "loose"])
@pytest.mark.parametrize("text", TRAPS.values(), ids=TRAPS.keys())
def test_a_trap_is_garbled_by_any_rules(text, rules):
    with pytest.raises(Garbled):
        decode_json(text, rules)
    with pytest.raises(Garbled):
        decode_json(text.encode(), rules)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"a": "\xff"}', b"\0\0\0\0", b"\xed\xa0\x80"])
def test_bytes_that_are_no_text_are_no_json(content):
    with pytest.raises(NotJson):
        decode_json(content)


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "-" + "9" * 65]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: text[:10])
def test_what_is_no_number_is_refused_or_taken_as_text_or_left_to_those_who_know_it(number):
    text = '{"a": [%s], "b": 1}' % number
    with pytest.raises(Garbled, match="no JSON"):
        decode_json(text, STRICT)
    assert decode_json(text, DOCUMENT) == {"a": [number], "b": 1}
    (value,) = decode_json(text, LOOSE)["a"]
    assert not math.isfinite(value) or abs(value) >= 1e64


def test_a_key_that_stands_twice_is_refused_but_where_the_last_one_counts():
    for rules in (STRICT, DOCUMENT):
        with pytest.raises(Garbled, match="'b' stands twice"):
            decode_json('{"a": 1, "b": 2, "b": 3}', rules)
    assert decode_json('{"b": 2, "b": 3}', LOOSE) == {"b": 3}


def test_rules_bound_bytes_elements_and_depth_to_the_last_one():
    rules = Rules(most_bytes=20, most_elements=4, most_depth=2)
    assert decode_json("[1, 2, 3]", rules) == [1, 2, 3]
    for text, why in (("[1, 2, 3, 4]", "elements"), ("[[[]]]", "levels"), ('"' + "x" * 19 + '"', "bytes")):
        with pytest.raises(Garbled, match=why):
            decode_json(text, rules)


def depth_of(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth_of, inner), default=0)


def numbers_of(value):
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_of(inner)
    elif isinstance(value, (int, float)):
        yield value


@given(some.text() | some.text(alphabet='[]{}",:0123456789.eE-+NaInfity \\u'))
def test_any_text_is_a_bounded_value_with_finite_numbers_or_garbled(text):
    for rules in (STRICT, DOCUMENT):
        try:
            value = decode_json(text, rules)
        except Garbled as error:
            assert "\n" not in str(error)
        else:
            assert depth_of(value) <= rules.most_depth
            assert all(math.isfinite(one) for one in numbers_of(value))


@given(some.binary())
def test_any_bytes_are_a_value_or_garbled(content):
    with contextlib.suppress(Garbled):
        decode_json(content, LOOSE)


JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-(10**60), 10**60) | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON.filter(lambda value: all(map(math.isfinite, numbers_of(value)))))
def test_what_others_write_properly_comes_back_as_it_was(value):
    assert decode_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "(" * 300 + ")" * 300,
        "-" * 100_000 + "1",
        "1+" * 50_000 + "1",
        "[" * 190 + "]" * 190 + "x",
        "{[]: 1}",
        "__import__('os')",
        "'\0'",
        "\ud800",
        "9" * 5000,
        "f'{1}'",
        "x" * (1 << 20),
        "",
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_a_literal_that_is_none_is_garbled(text):
    with pytest.raises(Garbled):
        decode_literal(text)
    with pytest.raises(Garbled):
        decode_loosely(text if text != "9" * 5000 else "[" * 40 + "]" * 40)


def test_people_write_json_or_python():
    assert decode_loosely('{"a": true}') == {"a": True}
    assert decode_loosely("{'a': True, 'b': None}") == {"a": True, "b": None}


CLAIMS = ["[" * 50_000, "NaN", '{"exp": 1e999}', '{"exp": %s}' % ("9" * 5000), "\ud800", "[]"]


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda text: ascii(text)[:20])
def test_claims_of_any_shape_are_claims_or_none(claims):
    middle = base64.urlsafe_b64encode(claims.encode("utf-8", "surrogatepass")).decode()
    assert claims_of(f"a.{middle}.c") == {}
