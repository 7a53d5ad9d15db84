"""When a certificate ends: all that the pilot wants to know of one before it is presented."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime

_UTC_TIME = 0x17
_EXPLICIT_VERSION = 0xA0
_LONG_FORM = 0x80


def certificate_end(pem: str) -> float | None:
    """The notAfter of the first certificate in a PEM text, as Unix time; None where none can be read.

    The path through the DER is that of RFC 5280 section 4.1: Certificate, TBSCertificate, and in it, after
    version, serial number, signature and issuer, the validity.
    """
    found = re.search(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", pem, re.DOTALL)
    if found is None:
        return None
    try:
        return _not_after(base64.b64decode(found[1]))
    except (binascii.Error, IndexError, UnicodeDecodeError, ValueError):
        return None


def _not_after(der: bytes) -> float:
    _, certificate, _ = _element(der, 0)
    _, at, _ = _element(der, certificate)
    if der[at] == _EXPLICIT_VERSION:
        at = _element(der, at)[2]
    for _ in ("serial number", "signature", "issuer"):
        at = _element(der, at)[2]
    _, not_before, _ = _element(der, at)
    kind, start, end = _element(der, _element(der, not_before)[2])
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(der[start:end].decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, first byte and end of the element that begins at ``at``."""
    length, start = der[at + 1], at + 2
    if length & _LONG_FORM:
        count = length & ~_LONG_FORM
        length, start = int.from_bytes(der[start : start + count], "big"), start + count
    if start + length > len(der):
        raise IndexError(at)
    return der[at], start, start + length
