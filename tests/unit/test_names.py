import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.values.names import Checksum, EnvName, Lfn, Scope, Url, env_value


@given(st.text(max_size=300))
def test_a_file_name_stays_in_its_directory(text):
    try:
        name = Lfn(text)
    except ValueError:
        return
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert 0 < len(name.encode()) <= 255
    assert name.isprintable()


@given(st.text(alphabet="a.-_", max_size=12))
def test_a_scope_has_no_empty_directory(text):
    try:
        scope = Scope(text)
    except ValueError:
        return
    assert all(scope.split("."))


@given(st.text(max_size=80))
def test_a_url_that_passed_has_a_safe_path(text):
    try:
        url = Url("http://host/" + text)
    except ValueError:
        return
    assert ".." not in url.path.split("/")
    assert url.isprintable()


@pytest.mark.parametrize(
    "text", ["http://", "http:///x", "host/x", "http://h:99999/x", "file://host/x", "root://h", ""]
)
def test_what_is_no_url_says_why(text):
    with pytest.raises(ValueError, match=r"."):
        Url(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("ad:1a2b3c4d", "adler32", "1a2b3c4d"),
        ("adler32:1A2B3C4D", "adler32", "1a2b3c4d"),
        ("ad:cc737eb", "adler32", "0cc737eb"),
        ("cc737eb0", "adler32", "cc737eb0"),
        ("md:" + "a" * 32, "md5", "a" * 32),
        ("b" * 32, "md5", "b" * 32),
    ],
)
def test_a_checksum_is_read_in_all_of_pandas_spellings(text, kind, value):
    assert Checksum.parse(text) == Checksum(kind, value)


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "PATH", "PANDA_AUTH_TOKEN", "X509_USER_PROXY", "BASH_ENV", "ENV", "A=B", "1A", ""]
)
def test_a_job_may_not_set_what_steers_loaders_shells_or_the_pilot(name):
    with pytest.raises(ValueError, match=r"."):
        EnvName(name)


def test_values_of_variables_may_hold_what_a_shell_would_mind():
    assert env_value("a; b $(c) `d` 'e'") == "a; b $(c) `d` 'e'"
