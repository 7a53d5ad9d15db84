"""Who may call: certificates, tokens, and what each of them may do."""

import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from pilot.embedded.server import EmbeddedServer
from pilot.values.errors import UsageError
from tests.local import LocalToken

UPDATE = {"job_id": 99, "job_status": "running"}
INSECURE = "SSL secure connection is required"
NO_ROLE = "production or pilot role required"


class Caller:
    """Calls of a server that asks who is calling."""

    def __init__(self, server, files):
        self.server, self.files = server, files

    def call(self, name, method="POST", *, cert=None, token=None, origin="wlcg.production", **more):
        headers = {"Accept": "application/json"}
        if token is not None:
            headers |= {"Authorization": f"Bearer {token}"} | ({"Origin": origin} if origin else {})
        with requests.Session() as session:
            session.trust_env = False
            session.auth = LocalToken(self.server.local_token) if name.startswith("/local/") else None
            session.verify = str(self.server.ca) if self.server.url.startswith("https") else None
            session.cert = cert and self.pem(cert)
            return session.request(method, f"{self.server.url}{name}", headers=headers, timeout=10, **more)

    def update(self, **credentials):
        answer = self.call("/api/v1/pilot/update_job", json=UPDATE, **credentials)
        return answer.text if answer.status_code == 403 else answer.json()["message"]

    def get(self, name, **credentials):
        return self.call(f"/api/v1/{name}", "GET", **credentials).json()

    def pem(self, text):
        if not text.startswith("-----"):
            return text
        path = self.files / "cert.pem"
        path.write_text(text)
        return str(path)


@contextlib.contextmanager
def serving(path, **options):
    with EmbeddedServer(path / "data", **options) as server:
        yield Caller(server, path)


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("guarded"), tls=True) as caller:
        yield caller


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("plain"), auth="required") as caller:
        yield caller


@pytest.fixture(scope="module")
def robot(caller):
    return str(caller.files / "data" / "tls" / "client.pem")


@pytest.fixture(scope="module")
def key(caller):
    return (caller.files / "data" / "tokens" / "token_key").read_text()


def test_the_files_are_there_and_only_their_owner_reads_them(caller, robot):
    data = caller.files / "data"
    secret = [data / "tls" / "client.pem", data / "tokens" / "token", data / "tokens" / "token_key"]
    assert [path.stat().st_mode & 0o777 for path in secret] == [0o600] * 3
    assert caller.update(cert=robot) == ""
    assert caller.update(token=(data / "tokens" / "token").read_text()) == ""


def test_nobody_is_refused(caller):
    assert caller.update() == INSECURE


def test_some_user_has_no_role(caller):
    assert caller.update(cert=caller.server.client_certificate("Alice Example")) == NO_ROLE


def test_a_limited_proxy_is_no_certificate(caller):
    assert caller.update(cert=caller.server.client_certificate("Robot Pilot", limited=True)) == INSECURE


def test_a_proxy_that_a_user_made_of_the_certificate_is_its_owner(caller, robot):
    assert caller.update(cert=proxy_of(robot)) == ""


def proxy_of(file):
    """A proxy certificate (RFC 3820) with its key, and the certificate that it was made of."""
    text = Path(file).read_bytes()
    owner, owners_key = x509.load_pem_x509_certificate(text), load_pem_private_key(text, None)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([*owner.subject, x509.NameAttribute(NameOID.COMMON_NAME, "123456")])
    inherit_all = bytes.fromhex("300c300a06082b06010505071501")
    marks = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), inherit_all)
    usage = owner.extensions.get_extension_for_class(x509.KeyUsage).value
    builder = x509.CertificateBuilder(owner.subject, name, key.public_key(), 123456)
    builder = builder.not_valid_before(owner.not_valid_before_utc).not_valid_after(owner.not_valid_after_utc)
    builder = builder.add_extension(marks, critical=True).add_extension(usage, critical=True)
    proxy = builder.sign(owners_key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (proxy.public_bytes(Encoding.PEM) + private + owner.public_bytes(Encoding.PEM)).decode()


def test_an_expired_certificate_does_not_get_through(caller):
    with pytest.raises(requests.exceptions.ConnectionError):
        caller.update(cert=caller.server.client_certificate("Robot Pilot", -60))


@pytest.mark.parametrize("origin", ["wlcg.production", "wlcg:production"])
def test_a_token_with_its_role_may_call_also_over_http(caller, plain, origin):
    assert caller.update(token=caller.server.mint(), origin=origin) == ""
    assert plain.update(token=plain.server.mint(), origin=origin) == ""


def test_plain_http_demands_credentials_only_if_told_to(plain):
    assert plain.update() == INSECURE


def test_without_a_role_in_the_origin_there_is_none(caller):
    assert caller.update(token=caller.server.mint(), origin="wlcg") == NO_ROLE


def test_another_role_is_not_enough(caller):
    assert caller.update(token=caller.server.mint(role="pilot"), origin="wlcg.pilot") == NO_ROLE


@pytest.mark.parametrize(
    ("wishes", "origin", "words"),
    [
        ({"lifetime_s": -5}, "wlcg.production", r"Invalid token\. Signature has expired"),
        ({"role": ""}, "wlcg.production", r"Not a member of the wlcg/production group"),
        ({"vo": "nosuch"}, "nosuch.production", r"Unknown vo : nosuch"),
        ({}, "atlas.production", r"Not a member of the atlas/production group"),
        ({}, None, r"Token decode failure\. 'NoneType' object has no attribute 'replace' Traceback[\s\S]*"),
    ],
)
def test_a_token_that_does_not_fit_is_forbidden(caller, wishes, origin, words):
    told = caller.update(token=caller.server.mint(**wishes), origin=origin)
    assert re.fullmatch(rf"ERROR : Token authentication failed\. {words}", told)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_of_another_maker_is_forbidden(caller, algorithm):
    kid = jwt.get_unverified_header(caller.server.mint())["kid"]
    claims = {"iss": "x", "exp": time.time() + 60, "groups": ["/wlcg/production"]}
    forged = jwt.encode(claims, "" if algorithm == "none" else "s" * 32, algorithm, headers={"kid": kid})
    assert "Invalid token." in caller.update(token=forged)


def test_with_both_the_token_decides(caller, robot):
    assert "expired" in caller.update(cert=robot, token=caller.server.mint(lifetime_s=-5))


def test_a_forbidden_method_is_told_before_a_bad_token(caller):
    answer = caller.call("/api/v1/pilot/nothing", token="x")
    assert (answer.status_code, answer.text) == (403, "ERROR : method nothing is forbidden")


def test_a_user_gets_his_own_user_jobs_only(caller):
    alice = caller.server.client_certificate("Alice Example")
    for owner in ("/DC=x/CN=Bob", "/DC=x/CN=Alice Example/CN=123456"):
        panda = {"prodSourceLabel": "user", "prodUserID": owner}
        caller.call("/local/jobs", json={"definition": {"panda": panda, "queue": "MINE"}})
    path = "/api/v1/pilot/acquire_jobs"
    foreign = caller.call(path, cert=alice, json={"site_name": "MINE", "prod_source_label": "managed"}).json()
    assert foreign["message"] == "no production/pilot role in VOMS FQANs or non pilot owner"
    asked = {"site_name": "MINE", "prod_source_label": "user", "n_jobs": 5}
    mine = caller.call(path, cert=alice, json=asked).json()["data"]["jobs"]
    assert [one["prodUserID"] for one in mine] == ["/DC=x/CN=Alice Example/CN=123456"]


def test_a_fresh_token_for_the_right_key(caller, key):
    token = caller.server.mint(lifetime_s=60)
    query = f"creds/get_access_token?client_name=pilot_server&token_key={key}"
    fresh = caller.get(query, token=token)["data"]["user_proxy"]
    assert fresh != token
    assert caller.update(token=fresh) == ""
    wrong = caller.get("creds/get_access_token?client_name=x&token_key=wrong", token=token)
    assert (wrong["success"], wrong["data"]) == (False, None)


def test_the_token_key_is_told(caller, key):
    assert caller.get("creds/get_token_key?client_name=x", token=caller.server.mint())["data"] == {"tokenKey": key}


def test_a_proxy_can_be_used(caller, robot):
    proxy = caller.get("creds/get_proxy?role=production", cert=robot)["data"]["user_proxy"]
    assert caller.update(cert=proxy) == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("get_access_token?client_name=x", "failed: 'Bob' not in authorized users with 'p' in {} to get access token"),
        ("get_proxy", "failed: 'Bob' not in authorized users with 'p' in {} to get proxy"),
        ("get_token_key?client_name=x", "Denied since 'Bob' not authorized with 't' in {}"),
        ("get_key_pair?public_key_name=a&private_key_name=b", "Failed since 'Bob' not authorized with 'k' in {}"),
    ],
)
def test_who_may_not_is_told_which_letter_is_missing(caller, call, words):
    told = caller.get(f"creds/{call}", token=caller.server.mint(name="Bob"), origin="wlcg")
    assert told["message"] == words.format("DOMA_PANDAMETA.USERS.GRIDPREF")


def test_key_pairs_are_files(caller, robot):
    keys = caller.files / "data" / "keys"
    keys.mkdir()
    (keys / "a").write_text("public")
    (keys / "b").write_text("private")
    path = "creds/get_key_pair?public_key_name=a&private_key_name="
    assert caller.get(f"{path}b", cert=robot)["data"] == {"public_key": "public", "private_key": "private"}
    for elsewhere in ("../lock", "/etc/passwd", "missing", ".."):
        assert caller.get(path + elsewhere, cert=robot)["success"] is False


def test_everybody_has_secrets_of_his_own(caller, robot):
    body = {"key": "k", "value": "v"}
    assert caller.call("/api/v1/creds/set_user_secrets", json=body, cert=robot).json()["success"]
    assert caller.get("creds/get_user_secrets", cert=robot)["data"] == '{"k": "v"}'
    assert caller.get("creds/get_user_secrets?keys=x&keys=y", cert=robot)["data"] == "{}"
    assert caller.get("creds/get_user_secrets", token=caller.server.mint())["data"] == "{}"


def test_tokens_can_be_asked_for_by_tests(plain):
    wishes = {"lifetime_s": 60, "vo": "atlas", "role": "production", "groups": ["/atlas/production"]}
    token = plain.call("/local/tokens", json=wishes).json()["token"]
    assert plain.update(token=token, origin="atlas.production") == ""
    for bad in ({"x": 1}, {"lifetime_s": "1"}, [], {"vo": None}):
        assert plain.call("/local/tokens", json=bad).status_code == 400


def test_authority_and_tokens_survive_a_restart(tmp_path):
    with serving(tmp_path, tls=True) as caller:
        token, robot = caller.server.mint(), caller.server.client_certificate("Robot Pilot")
        ca = caller.server.ca.read_bytes()
    with serving(tmp_path, tls=True) as caller:
        assert caller.server.ca.read_bytes() == ca
        assert caller.update(token=token) == ""
        assert caller.update(cert=robot) == ""


def test_without_demands_nothing_is_made(tmp_path):
    with serving(tmp_path) as caller:
        assert caller.update() == ""
        assert not (tmp_path / "data" / "tokens").exists()
        assert not (tmp_path / "data" / "tls").exists()


def test_the_command_writes_what_its_clients_need(tmp_path):
    arguments = ["--tls", "--port", "0", "--data", str(tmp_path / "data"), "--as-broken-as-1.0.4"]
    command = [sys.executable, "-m", "pilot", "serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            url = child.stdout.readline().split()[1]
            told = SimpleNamespace(url=url, ca=tmp_path / "data" / "tls" / "ca.pem")
            assert Caller(told, tmp_path).update(cert=str(tmp_path / "data" / "tls" / "client.pem")) == ""
            assert Caller(told, tmp_path).update() == INSECURE
        finally:
            child.terminate()
    assert child.returncode == 0


def test_credentials_that_cannot_be_read_are_told_in_one_line(tmp_path):
    (tmp_path / "tls").mkdir()
    for name in ("ca.pem", "ca-key.pem"):
        (tmp_path / "tls" / name).write_text("nonsense")
    with pytest.raises(UsageError, match=r"^credentials in .*[^\n]$"):
        EmbeddedServer(tmp_path, tls=True).start()
