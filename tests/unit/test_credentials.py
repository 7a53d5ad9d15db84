"""Credentials as Harvester's pods hold them: names, folders, rotation, life."""

import base64
import json

import pytest

from pilot.net.credentials import CredentialFiles, Credentials, Token
from pilot.values.errors import CredentialError

NOW = 1_000_000.0
SERVER = "https://panda.example:25443/api"


def jwt(**claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'RS256'})}.{part(claims)}.{part({'sig': 1})}"


def make(learned=None, **files):
    return Credentials(CredentialFiles(**files), (learned if learned is not None else []).append, lambda: NOW)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "panda_token").write_text(jwt(iat=NOW - 100, exp=NOW + 100) + "\n")
    return tmp_path / "tokens"


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/anything"])
def test_a_token_is_found_whether_its_folder_is_written_with_a_slash_or_not(folder, form):
    found = make(token="panda_token", token_folders=(form.format(folder),), origin="vo.role")
    assert found.headers(SERVER)["Authorization"].startswith("Bearer ey")
    assert found.headers(SERVER)["Origin"] == "vo.role"


def test_a_token_may_be_named_by_its_path(folder):
    assert make(token=str(folder / "panda_token"), origin="vo:role").headers(SERVER)


def test_a_trailing_newline_is_no_part_of_a_token(folder):
    assert "\n" not in make(token=str(folder / "panda_token"), origin="o").headers(SERVER)["Authorization"]


def test_every_token_is_learned_so_that_no_log_shows_it(folder):
    learned = []
    make(learned, token=str(folder / "panda_token"), origin="o").headers(SERVER)
    assert {one.strip() for one in learned} == {(folder / "panda_token").read_text().strip()}


def test_a_key_for_tokens_is_learned_before_it_is_needed(folder):
    learned = []
    (folder / "key").write_text("the-key-for-tokens\n")
    make(learned, token=str(folder / "panda_token"), origin="o", token_key=str(folder / "key"))
    assert "the-key-for-tokens" in "".join(learned)


def test_a_rotated_file_is_read_again_and_connections_are_made_anew(folder):
    credentials = make(token=str(folder / "panda_token"), origin="o")
    before, seen = credentials.headers(SERVER), credentials.stamp()
    assert credentials.stamp() == seen
    (folder / "new").write_text(jwt(exp=NOW + 500))
    (folder / "new").replace(folder / "panda_token")
    assert credentials.stamp() != seen
    assert credentials.headers(SERVER) != before


def test_in_the_middle_of_a_rotation_the_last_token_does(folder):
    credentials = make(token=str(folder / "panda_token"), origin="o")
    before = credentials.headers(SERVER)
    (folder / "panda_token").unlink()
    assert credentials.headers(SERVER) == before


def test_of_a_refreshed_token_and_the_files_the_one_that_lives_longer_is_used(folder):
    credentials = make(token=str(folder / "panda_token"), origin="o")
    fresh = jwt(exp=NOW + 1000)
    credentials.refreshed(fresh)
    assert credentials.headers(SERVER)["Authorization"] == f"Bearer {fresh}"
    (folder / "panda_token").write_text(jwt(exp=NOW + 5000))
    assert credentials.headers(SERVER)["Authorization"] != f"Bearer {fresh}"


def test_an_expired_token_is_not_sent(folder):
    (folder / "panda_token").write_text(jwt(exp=NOW - 1))
    with pytest.raises(CredentialError, match="expired"):
        make(token=str(folder / "panda_token"), origin="o").headers(SERVER)


@pytest.mark.parametrize("url", ["http://panda.example:25080/api", "http://10.0.0.1/"])
def test_a_token_does_not_leave_the_machine_without_tls(folder, url):
    with pytest.raises(CredentialError, match="TLS"):
        make(token=str(folder / "panda_token"), origin="o").headers(url)


def test_half_of_a_tokens_life():
    assert Token.read(jwt(iat=0, exp=100)).half_life(80) == 50
    assert Token.read(jwt(exp=100)).half_life(80) == 90
    assert Token.read("opaque").half_life(80) is None


@pytest.mark.parametrize(
    "files", [{"token": "none"}, {"certificate": "/no/proxy"}, {"token": "a", "certificate": "/no"}]
)
def test_what_was_named_and_is_nowhere_is_said(files):
    with pytest.raises(CredentialError, match="cannot be found"):
        make(**files)


def test_a_token_without_an_origin_is_of_no_use(folder):
    with pytest.raises(CredentialError, match="origin"):
        make(token=str(folder / "panda_token"))


def test_a_dummy_proxy_path_does_not_disturb_a_token_only_pod(folder):
    credentials = make(token=str(folder / "panda_token"), origin="o", certificate="/proxy/x509up")
    assert credentials.certificate == ""
    assert credentials.headers(SERVER)


@pytest.mark.parametrize("content", ["", "two words", "\x00", "gr\u00fcn"])
def test_a_file_that_holds_no_token_is_said_and_its_content_is_not(folder, content):
    (folder / "panda_token").write_text(content)
    with pytest.raises(CredentialError) as caught:
        make(token=str(folder / "panda_token"), origin="o").headers(SERVER)
    assert not content or content not in str(caught.value)
