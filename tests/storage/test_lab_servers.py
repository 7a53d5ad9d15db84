"""The servers of these tests do what tests rely on: without that a green test of a client would prove nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import requests

from tests.storage.fault_server import BODY, OTHER
from tests.storage.tokens import Issuer, token_file

CONTENT = b"worth a token\n" * 1000

ROOT_READ = """if True:
    import sys
    from XRootD import client
    with client.File() as file:
        status, _ = file.open(sys.argv[1])
        print(status.code if not status.ok else len(file.read()[1]))
"""


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def root_client(command: list[str], guarded, token_path=None) -> subprocess.CompletedProcess[str]:
    """Run a client of root:// that gives up soon, with a token or none."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BEARER", "XRD_"))}
    environment |= {"X509_CERT_DIR": str(guarded.authorities), "XRD_CONNECTIONRETRY": "1", "XRD_REQUESTTIMEOUT": "15"}
    environment |= {"BEARER_TOKEN_FILE": str(token_path)} if token_path else {"XDG_RUNTIME_DIR": "/nonexistent"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=40, env=environment)


@pytest.fixture
def web(ca_path):
    """Requests that trust our authority and no environment."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = ca_path
        yield session


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda issuer: issuer.token(), 200),
        (lambda issuer: issuer.token("storage.read:/priv"), 200),
        (lambda issuer: issuer.token("read:/ write:/", scitoken=True), 200),
        (lambda issuer: issuer.token("storage.read:/other"), 403),
        (lambda issuer: issuer.token(lifetime_s=-60), 403),
        (lambda issuer: issuer.token(audience="https://another.example"), 403),
        (lambda _: Issuer().token(), 403),
    ],
    ids=["good", "scoped", "scitoken", "elsewhere", "expired", "audience", "forged"],
)
def test_a_guarded_server_looks_at_each_claim(make, status, guarded, issuer, web):
    guarded.put("priv/file", CONTENT)

    assert web.get(guarded.https("priv/file"), headers=bearer(make(issuer)), timeout=10).status_code == status


def test_a_guarded_server_lets_everybody_read_what_is_public_only(guarded, web):
    guarded.put("priv/file", CONTENT)
    guarded.put("pub/file", CONTENT)

    assert web.get(guarded.https("pub/file"), timeout=10).content == CONTENT
    assert web.get(guarded.https("priv/file"), timeout=10).status_code == 403
    assert web.put(guarded.https("pub/file"), data=b"", timeout=10).status_code == 403


def test_a_token_is_the_login_of_root_too(guarded, issuer, tmp_path):
    guarded.put("priv/file", CONTENT)
    command = [sys.executable, "-c", ROOT_READ, guarded.root("priv/file")]

    def read(token: str) -> int:
        return int(root_client(command, guarded, token_file(tmp_path, token)).stdout)

    assert read(issuer.token()) == len(CONTENT)
    assert read(issuer.token(lifetime_s=-60)) == 204  # errAuthFailed
    assert int(root_client(command, guarded).stdout) == 204


@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_server_fetches_from_another_over_https(direction, xrootd, guarded, issuer, web):
    source, target = (xrootd, guarded) if direction == "in" else (guarded, xrootd)
    source.put("tpc/file", CONTENT)
    name = "Authorization" if direction == "in" else "TransferHeaderAuthorization"
    headers = {"Source": source.https("tpc/file"), name: f"Bearer {issuer.token()}"}

    answer = web.request("COPY", target.https(f"fetched-{direction}"), headers=headers, timeout=20)

    assert answer.status_code == 201
    assert answer.text.endswith("success: Created")
    assert (target.data / f"fetched-{direction}").read_bytes() == CONTENT


def test_one_server_fetches_from_another_over_root(xrootd, second_xrootd):
    xrootd.put("tpc/file", CONTENT)

    done = root_client(
        ["xrdcp", "--tpc", "only", xrootd.root("tpc/file"), second_xrootd.root("fetched-root")], second_xrootd
    )

    assert done.returncode == 0, done.stderr
    assert (second_xrootd.data / "fetched-root").read_bytes() == CONTENT


def test_a_guarded_server_fetches_from_a_guarded_one_with_a_token_of_its_own(
    guarded, guarded_fetcher, issuer, tmp_path
):
    guarded.put("tpc/file", CONTENT)
    addresses = [guarded.roots("tpc/file"), guarded_fetcher.roots("fetched-roots")]

    done = root_client(["xrdcp", "--tpc", "only", *addresses], guarded, token_file(tmp_path, issuer.token()))

    assert done.returncode == 0, done.stderr
    assert (guarded_fetcher.data / "fetched-roots").read_bytes() == CONTENT


def test_a_servers_small_disk_is_full_soon_and_gone_afterwards(xrootd):
    with xrootd.small_disk("small", size_mib=1) as disk:
        (disk / "first").write_bytes(bytes(1 << 20))
        with pytest.raises(OSError, match="No space left"):
            (disk / "second").write_bytes(b"more")

    assert not list(disk.iterdir())


def test_a_proxy_breaks_the_first_connections_and_leaves_nothing_behind(xrootd, proxy, web):
    xrootd.put("proxied", BODY)
    before = threading.active_count()
    link = proxy(xrootd.web_port, "rst", 1 << 20, faulty=1)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        web.get(link.http("proxied"), timeout=10)
    assert web.get(link.http("proxied"), timeout=10).content == BODY
    assert link.connections == 2

    link.__exit__()
    web.close()
    assert threading.active_count() == before


def test_a_flipped_bit_on_the_way_is_all_that_differs(xrootd, proxy, web):
    xrootd.put("proxied", BODY)

    got = web.get(proxy(xrootd.web_port, "flip", 1 << 20).http("proxied"), timeout=10).content

    assert len(got) == len(BODY)
    assert sum(a != b for a, b in zip(got, BODY, strict=True)) == 1


def test_ranges_are_given_only_of_the_file_that_is_meant(faults, web):
    ask = {"Range": "bytes=1000-", "If-Range": '"one"'}

    kept = web.get(faults.url("resume/0/0"), headers=ask, timeout=10)
    changed = web.get(faults.url("changes/0/0"), headers=ask, timeout=10)

    assert (kept.status_code, kept.content) == (206, BODY[1000:])
    assert (changed.status_code, changed.content) == (200, OTHER)
    assert [seen.headers["If-Range"] for seen in faults.seen] == ['"one"'] * 2


def test_a_canary_tells_who_brought_it_a_token(secure_faults, secure_canary, web):
    address = secure_faults.away(secure_canary.url("x", host="localhost"))

    # requests itself takes the token off on the way to another host; this client does not
    web.rebuild_auth = lambda *_: None
    web.put(address, data=b"content", headers=bearer("secret"), timeout=10)

    assert secure_canary.tokens == ["Bearer secret"]
    assert secure_canary.stored == {"/x": b"content"}


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        ("copied/202", "success: Created"),
        ("copyfails", "failure: Remote side failed"),
        ("copyempty", "success: Created"),
        ("copyunsaid", "End"),
    ],
)
def test_what_a_copy_says_last_may_have_nothing_to_do_with_its_status(fault, last, faults, web):
    answer = web.request("COPY", faults.url(f"{fault}"), headers={"Source": "https://x.example/y"}, timeout=10)

    assert answer.ok
    assert answer.text.splitlines()[-1].startswith(last)
    assert (f"/{fault}" in faults.stored) is (fault != "copyempty")
