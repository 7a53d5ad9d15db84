"""The decisions of the web tool that need no server: redirects, digests, statuses."""

from __future__ import annotations

import pytest
import requests

from pilot.staging import http
from pilot.values.errors import Denied, Exists, FileMissing, NoSpace, TransferFailed, Unreachable


def answer(status: int, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return response


@pytest.mark.parametrize(
    ("digest", "adler32"),
    [
        ("adler32=A3D2A367", "a3d2a367"),
        ("md5=kjh+/==,ADLER32=2a367", "0002a367"),
        ("adler32=03da0195, crc32c=WlKVlg==", "03da0195"),
        ("adler32=not-hex", None),
        ("adler32=a3d2a36700", None),
        ("crc32c=WlKVlg==", None),
        ("", None),
    ],
)
def test_the_adler32_of_a_digest_header_is_found(digest, adler32):
    assert http._told(answer(200, Digest=digest)) == adler32


@pytest.mark.parametrize(
    ("status", "method", "location", "target"),
    [
        (302, "PUT", "https://pool/f?key=1", "https://pool/f?key=1"),
        (307, "GET", "/other", "https://door/other"),
        (303, "GET", "davs://pool/f", "https://pool/f"),
        (303, "PUT", "https://pool/f", None),
        (200, "GET", "https://pool/f", None),
        (302, "GET", "", None),
    ],
)
def test_a_redirect_leads_where_its_method_may_follow(status, method, location, target):
    assert http._redirected(answer(status, Location=location), method, "https://door/f") == target


@pytest.mark.parametrize("location", ["http://pool/f", "dav://pool/f", "file:///etc/passwd", "ftp://pool/f"])
def test_a_redirect_away_from_tls_is_not_followed(location):
    with pytest.raises(TransferFailed, match="not followed"):
        http._redirected(answer(302, Location=location), "GET", "https://door/f")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Denied),
        (403, Denied),
        (404, FileMissing),
        (409, Exists),
        (410, FileMissing),
        (412, Exists),
        (413, NoSpace),
        (418, TransferFailed),
        (304, TransferFailed),
        (500, Unreachable),
        (503, Unreachable),
        (507, NoSpace),
    ],
)
def test_each_status_has_its_word(status, error):
    with pytest.raises(error) as caught:
        http._check_status(answer(status), "https://host/f?authz=secret")

    assert type(caught.value) is error
    assert "secret" not in str(caught.value)
