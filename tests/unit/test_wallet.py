"""The wallet: which credential goes to which storage, and that none goes anywhere else."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pilot.staging.lanes.wallet import Identity, Rule, Wallet
from pilot.values.errors import Denied, UsageError

SITE = "https://dcache.example.org:2880/data/f"


def jwt(**claims: Any) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part(claims)}.signature"


@pytest.fixture
def put(tmp_path: Path):
    def write(name: str, text: str) -> str:
        path = tmp_path / "secrets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
        path.chmod(0o644)  # as Kubernetes mounts a Secret
        return str(path)

    return write


@pytest.fixture
def wallet(tmp_path: Path):
    opened: list[Wallet] = []

    def make(*rules: str, site: tuple[str, ...] = ("dcache.example.org:2880",), trusting: bool = False) -> Wallet:
        opened.append(Wallet([Rule.parse(rule) for rule in rules], tmp_path / "copies", trusting=trusting))
        opened[-1].trust(site)
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def sent(identity: Identity) -> str:
    return Path(identity.token_file).read_text().strip() if identity.token_file else ""


def test_the_sites_storages_get_the_common_token_and_a_host_that_a_job_names_gets_nothing(wallet, put):
    ours = wallet(f"*=token:{put('token', 'opaque-token')}")

    assert sent(ours.identity(SITE, write=False)) == "opaque-token"
    assert ours.identity("https://evil.example.com/f", write=False) == Identity()
    assert ours.identity("https://dcache.example.org:443/f", write=False) == Identity()


def test_a_person_who_names_a_host_trusts_it(wallet, put):
    ours = wallet(f"*=token:{put('token', 'opaque-token')}", trusting=True)

    assert sent(ours.identity("https://anywhere.example.com/f", write=True)) == "opaque-token"


@pytest.mark.parametrize(
    "pattern", ["dcache.example.org", "dcache.example.org:2880", "*.example.org", "DCACHE.example.org"]
)
def test_a_rule_names_hosts_with_or_without_port(pattern, wallet, put):
    ours = wallet(f"{pattern}=token:{put('token', 'named')}", site=())

    assert sent(ours.identity(SITE, write=False)) == "named"
    assert ours.identity("https://dcache.example.com:2880/f", write=False) == Identity()


def test_the_first_rule_of_a_kind_wins_and_none_ends_the_search(wallet, put):
    ours = wallet(
        "open.example.org=none",
        f"dcache.example.org=token:{put('first', 'first')}",
        f"*=token:{put('second', 'second')}",
        f"*=proxy:{put('proxy', 'PEM')}",
        site=("dcache.example.org:2880", "open.example.org"),
    )

    both = ours.identity(SITE, write=False)
    assert sent(both) == "first"
    assert Path(both.certificate).read_text() == "PEM\n"
    assert ours.identity("https://open.example.org/f", write=False) == Identity()


def test_a_token_is_not_sent_over_an_open_line_but_on_loopback(wallet, put):
    ours = wallet(f"*=token:{put('token', 'opaque-token')}", trusting=True)

    assert ours.identity("http://dcache.example.org/f", write=False) == Identity()
    assert sent(ours.identity("http://127.0.0.1:1234/f", write=False)) == "opaque-token"


def test_a_local_file_has_no_identity(wallet, put):
    assert wallet(f"*=token:{put('token', 'x')}", trusting=True).identity("file:///f", write=True) == Identity()


def test_of_several_tokens_audience_scope_and_end_decide(wallet, put, tmp_path):
    later = time.time() + 3600
    put("any", jwt(aud="https://wlcg.cern.ch/jwt/v1/any", scope="storage.read:/ storage.modify:/", exp=later))
    put("reads", jwt(aud=["https://dcache.example.org:2880"], scope="storage.read:/", exp=later))
    put("writes", jwt(aud="dcache.example.org", scope="openid write:/data", exp=later, ver="scitoken:2.0"))
    put("others", jwt(aud="https://other.example.org", scope="storage.read:/ storage.create:/", exp=later))
    put("..data", "not a token of ours")
    ours = wallet(f"*=tokens:{tmp_path / 'secrets'}", site=("dcache.example.org:2880", "third.example.org"))

    names = {(tmp_path / "secrets" / name).read_text().strip(): name for name in ("any", "reads", "writes", "others")}
    assert names[sent(ours.identity(SITE, write=False))] == "reads"
    assert names[sent(ours.identity(SITE, write=True))] == "writes"
    assert names[sent(ours.identity("https://third.example.org/f", write=False))] == "any"


def test_a_token_for_another_audience_stays_here(wallet, put):
    ours = wallet(f"*=token:{put('token', jwt(aud='https://other.example.org'))}")

    assert ours.identity(SITE, write=False) == Identity()


def test_an_expired_token_is_told_with_its_file(wallet, put):
    path = put("token", jwt(exp=time.time() - 90))

    with pytest.raises(Denied, match=rf"the token in {path} has expired 9\d s ago"):
        wallet(f"*=token:{path}").identity(SITE, write=False)


def test_what_no_transfer_needs_yet_is_learned_so_that_no_payload_can_print_it(put, tmp_path):
    # Given rules of each kind, and one for a file that is not there
    token, proxy = put("token", "a-token-in-a-file"), put("proxy", "a-key-in-a-proxy")
    folder = Path(put("folder-token", "a-token-in-a-folder")).parent
    rules = [f"a=token:{token}", f"b=proxy:{proxy}", f"c=tokens:{folder}", "d=none", "e=token:/no/such/file"]
    # When a wallet is made of them
    learned: list[str] = []
    Wallet([Rule.parse(rule) for rule in rules], tmp_path / "copies", learned.append)
    # Then it has told what all of them hold
    assert {one.strip() for one in learned} >= {"a-token-in-a-file", "a-key-in-a-proxy", "a-token-in-a-folder"}


def test_a_lane_gets_a_private_copy_and_a_new_token_is_a_new_identity(wallet, put):
    path = put("token", "old-token")
    ours = wallet(f"*=token:{path}")

    old = ours.identity(SITE, write=False)
    assert old == ours.identity(SITE, write=True)
    Path(path + ".new").write_text("new-token")
    Path(path + ".new").rename(path)
    new = ours.identity(SITE, write=False)

    assert (sent(old), sent(new)) == ("old-token", "new-token")
    assert {Path(one.token_file).stat().st_mode & 0o777 for one in (old, new)} == {0o600}
    ours.close()
    assert not Path(new.token_file).exists()


def test_what_a_killed_life_has_left_is_removed_and_nothing_else(wallet, put, tmp_path):
    left, other = tmp_path / "copies" / ("0f" * 10), tmp_path / "copies" / "mine.txt"
    left.parent.mkdir()
    for file in (left, other):
        file.write_text("text")

    wallet(f"*=token:{put('token', 'opaque-token')}").identity(SITE, write=False)

    assert (left.exists(), other.exists()) == (False, True)


def test_what_is_missing_is_told_with_its_name(wallet, tmp_path):
    with pytest.raises(Denied, match=r"storage credential .*/gone: No such file"):
        wallet(f"*=token:{tmp_path}/gone").identity(SITE, write=False)
    with pytest.raises(Denied, match=r"storage credential .*/gone: No such file"):
        wallet(f"*=proxy:{tmp_path}/gone").identity(SITE, write=False)
    with pytest.raises(Denied, match=r"storage credentials .*/gone: No such file"):
        wallet(f"*=tokens:{tmp_path}/gone").identity(SITE, write=False)


@pytest.mark.parametrize(
    "text", ["", "host", "host=", "=token:/f", "host=token", "host=token:", "host=none:/f", "h=key:/f"]
)
def test_a_rule_that_makes_no_sense_is_a_usage_error(text):
    with pytest.raises(UsageError, match="storage_credentials"):
        Rule.parse(text)
