"""The server's certificate is verified, with the CA that settings name."""

import pytest
import requests
import trustme

from pilot.embedded.server import EmbeddedServer
from tests.checker import check
from tests.lab import Run
from tests.local import LocalToken


@pytest.fixture
def secure(tmp_path):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = ca.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(tmp_path / "chain.pem", append=number > 0)
    files = (str(tmp_path / "chain.pem"), str(tmp_path / "key.pem"))
    with EmbeddedServer(tmp_path / "data", certificate=files) as server:
        yield server, str(tmp_path / "ca.pem")
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(tmp_path / "ca.pem")
            session.auth = LocalToken(server.local_token)
            assert check(server.url, session=session) == []


def submit(server, ca):
    with requests.Session() as session:
        session.trust_env, session.auth = False, LocalToken(server.local_token)
        body = {"definition": {"command": "true", "outputs": []}}
        with session.post(f"{server.url}/local/jobs", json=body, verify=ca, timeout=30) as answer:
            return answer.json()["id"]


def test_a_job_over_tls_with_the_sites_own_ca(secure, tmp_path):
    server, ca = secure
    submit(server, ca)
    pilot = Run(server.url, tmp_path / "work", "--max-jobs", 1, environment={"PILOT_CA": ca})
    assert pilot.wait() == 0, pilot.errors.read_text()
    assert "final delivered" in pilot.log.read_text()


def test_a_certificate_that_is_not_trusted_ends_the_pilot_with_its_reason(secure, tmp_path):
    server, ca = secure
    submit(server, ca)
    pilot = Run(server.url, tmp_path / "work", "--idle", 0.5)
    assert pilot.wait() == 64
    assert "certificate" in pilot.errors.read_text()


def test_an_expired_client_certificate_is_exit_80(tmp_path):
    with EmbeddedServer(tmp_path / "data", tls=True) as server:
        proxy = tmp_path / "x509up"
        proxy.write_text(server.client_certificate("Robot Pilot", -60))
        environment = {"PILOT_CA": server.ca, "X509_USER_PROXY": str(proxy)}
        pilot = Run(server.url, tmp_path / "work", "--idle", 5, environment=environment)
        assert pilot.wait() == 80, pilot.errors.read_text() + pilot.log.read_text()
        assert "certificate" in pilot.errors.read_text()
        assert len(pilot.errors.read_text().splitlines()) == 1
