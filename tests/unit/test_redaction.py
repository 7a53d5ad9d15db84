"""The redactor: no secret is left in a text or in a stream, however it is written, cut or split."""

import base64
import io
import json
import os
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.values.redaction import Redactor
from tests.secretzoo import PEM, SHAPES, spellings, texts_of

SECRET = "s3cr3t-token-value"
words = st.text(st.characters(codec="utf-8"), min_size=6, max_size=300).filter(lambda text: len(text.strip()) >= 6)
chunks = st.lists(st.integers(1, 400), min_size=1, max_size=20)


def redactor(*secrets):
    one = Redactor()
    for secret in secrets:
        one.learn(secret)
    return one


def split(content, sizes):
    """The content in pieces of these sizes, again and again."""
    at, turn = 0, 0
    while at < len(content):
        yield content[at : at + sizes[turn % len(sizes)]]
        at += sizes[turn % len(sizes)]
        turn += 1


@pytest.mark.parametrize("name", SHAPES)
def test_no_spelling_of_a_secret_is_left_in_a_text(name):
    secret = SHAPES[name]
    for spelling in spellings(secret):
        text = redactor(secret).clean(f"before {spelling} behind")
        assert spelling not in text
        assert text.startswith("before ")
        assert text.endswith(" behind")


@pytest.mark.parametrize("name", SHAPES)
def test_no_spelling_of_a_secret_is_left_in_a_stream_of_the_same_length(name):
    for spelling in spellings(SHAPES[name]):
        content = f"before {spelling} behind".encode()
        out = b"".join(redactor(SHAPES[name]).pieces([content]))
        assert len(out) == len(content)
        assert spelling.encode() not in out
        assert out.startswith(b"before *")


@given(words, st.binary(max_size=400), st.binary(max_size=400), chunks)
def test_how_a_stream_is_split_changes_nothing(secret, before, behind, sizes):
    content = before + secret.encode() + behind
    whole = b"".join(redactor(secret).pieces([content]))
    assert len(whole) == len(content)
    assert secret.strip().encode() not in whole
    assert b"".join(redactor(secret).pieces(split(content, sizes))) == whole


@pytest.mark.parametrize("size", [1, 7, 100, 273, 300, 1000])
@pytest.mark.parametrize("at", [0, 1, 250, 265, 271, 272, 273, 299, 500])
def test_a_secret_is_hidden_whole_wherever_it_lies_between_two_pieces(at, size):
    content = b"x" * at + SECRET.encode() + b"y" * 600
    expected = content.replace(SECRET.encode(), b"*" * len(SECRET))
    assert b"".join(redactor(SECRET).pieces(split(content, [size]))) == expected


@given(words, st.text(max_size=40), st.text(max_size=40))
def test_base64_of_a_text_with_a_secret_in_it_does_not_show_the_secret(secret, before, behind):
    content = (before + secret + behind).encode("utf-8", "surrogatepass")
    for encode in (base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes):
        encoded = encode(content)
        cleaned = b"".join(redactor(secret).pieces([encoded])).replace(b"*", b"A")
        decode = base64.urlsafe_b64decode if encode is base64.urlsafe_b64encode else base64.b64decode
        assert secret.strip().encode() not in decode(cleaned) or set(encoded) <= {*b"A\n="}


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_text_without_a_secret_stays_as_it_is(text, secret):
    if not {*text} & {*secret}:
        assert redactor("X" + secret.replace("X", "")).clean(text) == text


@given(st.binary(max_size=2000), chunks)
def test_a_stream_without_secrets_stays_as_it_is(content, sizes):
    assert b"".join(Redactor().pieces(split(content, sizes))) == content
    assert b"".join(redactor("X9-" * 20).pieces(split(content, sizes))) == content


def test_an_open_file_is_read_in_any_amount():
    content = b"a" * 100_000 + SECRET.encode() + b"\n" * 100_000
    stream = redactor(SECRET).stream(io.BytesIO(content))
    out = b""
    while piece := stream.read(777):
        assert len(piece) <= 777
        out += piece
    assert out == content.replace(SECRET.encode(), b"*" * len(SECRET))


def test_what_a_cut_has_left_of_a_secret_is_hidden():
    token = base64.urlsafe_b64encode(os.urandom(600)).decode()
    one = redactor(token)
    assert one.clean(token[100:] + " is the end of a token") == "*** is the end of a token"
    assert one.clean("a token begins: " + token[:500]) == "a token begins: ***"
    assert one.clean(token[30:70]) == "***"
    assert one.clean("x " + token[:7]) == "x " + token[:7], "too little to be known"


def test_secrets_that_overlap_are_hidden_whole():
    one = redactor("abcdefgh", "efghijkl", "abcdef")
    assert one.clean("-abcdefghijkl-") == "-***-"


def test_a_key_is_hidden_line_by_line_and_wrapped_in_any_way():
    one = redactor(PEM)
    for line in PEM.splitlines()[1:-1]:
        assert one.clean(f"line: {line}!") == "line: ***!"
    assert one.clean("[" + PEM.strip().replace("\n", "\r\n") + "]") == "[***]"
    assert one.clean("[" + PEM.strip().replace("\n", "") + "]") == "[***]"


def test_an_object_is_hidden_by_its_leaves_as_text_or_as_value():
    secret = {"host": {"key": ["first-leaf", "second-leaf"]}, "port": 54321987, "on": True, "short": "abc"}
    for one in (redactor(secret), redactor(json.dumps(secret)), redactor(json.dumps(secret, indent=1))):
        assert one.clean("first-leaf, second-leaf, 54321987, True, abc") == "***, ***, ***, True, abc"
        assert one.clean(json.dumps(secret)) == "***"


@pytest.mark.parametrize("secret", ["", "  ", "short", " a b \n", None, True, [], {}, 12345])
def test_what_is_shorter_than_six_characters_is_not_hidden(secret):
    assert redactor(secret).clean("short a b None True [] {} 12345") == "short a b None True [] {} 12345"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SeCrEtSeCrEt",
        '{"Authorization": "Basic SeCrEtSeCrEt"}',
        "root://h//f?authz=Bearer%20SeCrEtSeCrEt",
        "https://h/f?X-Amz-Signature=SeCrEtSeCrEt&X-Amz-Date=1",
        "https://h/f?a=1&X-Goog-Signature=SeCrEtSeCrEt",
        "https://h/f?sig=SeCrEtSeCrEt",
        "https://h/f?x=https%3A%2F%2Fg%3Ftoken%3DSeCrEtSeCrEt",
        "http://me:SeCrEtSeCrEt@proxy:3128/",
        '{"access_token": "SeCrEtSeCrEt", "expires_in": 1}',
        "the token eyJhbGciOiJSUzI1NiJ9.SeCrEtSeCrEt.SeCrEtSeCrEt was refused",
    ],
)
def test_what_looks_like_a_secret_is_hidden_in_texts(text):
    assert "SeCrEt" not in Redactor().clean(text)


@pytest.mark.parametrize(
    "text", ["root://me@host//f", "*=token:/run/token", "tokens=3 design=good", "https://h:443/a?b=1", "a://b:c"]
)
def test_what_only_resembles_one_stays(text):
    assert Redactor().clean(text) == text


def test_a_value_of_json_is_cleaned_in_all_its_texts():
    value = {"a": [SECRET, {"b" + SECRET: 1.5}], "n": None}
    assert redactor(SECRET).value(value) == {"a": ["***", {"b***": 1.5}], "n": None}
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    assert "***" in json.dumps(redactor(SECRET).value(deep))


def test_the_secrets_of_a_job_are_forgotten_with_the_next_and_our_own_are_not():
    one = redactor("our-own-token")
    one.begin_job(["first-job-secret"])
    one.learn_of_job("late-secret-of-it")
    assert one.clean("our-own-token first-job-secret late-secret-of-it") == "*** *** ***"
    one.begin_job(["second-job-secret"])
    assert one.clean("our-own-token first-job-secret second-job-secret") == "*** first-job-secret ***"


def test_very_many_and_very_long_secrets_are_bounded_and_the_likeliest_form_is_hidden():
    one = Redactor()
    one.begin_job(
        [{str(n): f"leaf-number-{n}-of-many" for n in range(5000)}, base64.b64encode(os.urandom(50_000)).decode()]
    )
    one.begin_job([secret := base64.b64encode(os.urandom(3_000)).decode(), *(f"secret-{n:05}" for n in range(300))])
    text = f"{secret} " + " ".join(f"secret-{n:05}" for n in range(300))
    assert set(one.clean(text)) <= {"*", " "}
    own = Redactor()
    for n in range(1000):
        own.learn(f"a-token-that-is-renewed-{n}")
    assert own.clean("a-token-that-is-renewed-999") == "***"


def test_a_quoted_form_may_have_small_letters():
    quoted = urllib.parse.quote("pa/ss+wörd=&%", safe="")
    assert redactor("pa/ss+wörd=&%").clean(f"?x={quoted.lower()}&y=1") == "?x=***&y=1"


def test_the_zoo_has_all_shapes():
    assert len(SHAPES) >= 8
    assert all(texts_of(secret) for secret in SHAPES.values())
