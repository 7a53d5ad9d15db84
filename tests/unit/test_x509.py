"""The end of a certificate, against certificates that a real library has made."""

from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from pilot.net.x509 import certificate_end


@pytest.mark.parametrize("year", [2031, 2049, 2060, 2199])
def test_the_end_of_a_certificate_is_read_in_both_of_its_spellings(year):
    end = datetime(year, 5, 17, 12, 30, 59, tzinfo=UTC)
    pem = trustme.CA().issue_cert("host.example", not_after=end).cert_chain_pems[0].bytes().decode()
    assert certificate_end("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n" + pem) == end.timestamp()


@given(st.text(alphabet="MIIBAQ=+/x\n", max_size=60))
def test_what_is_no_certificate_has_no_end(text):
    assert certificate_end(f"-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----") is None
