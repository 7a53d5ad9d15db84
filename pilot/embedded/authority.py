"""A certificate authority of the server's own: for itself, and for those who call it."""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pilot.embedded.identity import ROBOT
from pilot.embedded.secretfile import write_secret

_CA = "ca.pem"
_CA_KEY = "ca-key.pem"
_YEAR = timedelta(days=365)


class Authority:
    """The authority in a directory: made there the first time, taken up later."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        if not ((directory / _CA).exists() and (directory / _CA_KEY).exists()):
            self._found()
        self._certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
        key = serialization.load_pem_private_key((directory / _CA_KEY).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise OSError(f"{_CA_KEY} is no key of this server")
        self._key = key

    @property
    def ca(self) -> Path:
        """What a client trusts."""
        return self._directory / _CA

    def server_files(self, host: str, *more: str) -> tuple[str, str]:
        """A fresh certificate for this host, ``more`` names of it, and localhost, and its key, as file names."""
        key = _key()
        known = dict.fromkeys((host, *more, "localhost", "127.0.0.1", "::1", _own_name()))
        names = [_alternative(name) for name in known]
        certificate = self._issue(
            _subject("hosts", host[:64]),
            key,
            _YEAR,
            ExtendedKeyUsageOID.SERVER_AUTH,
            x509.SubjectAlternativeName(names),
        )
        chain, key_file = self._directory / "server.pem", self._directory / "server-key.pem"
        write_secret(key_file, _private(key))
        write_secret(chain, _public(certificate) + self.ca.read_bytes())
        return str(chain), str(key_file)

    def write_client(self) -> None:
        """Put a certificate that has the production role beside the others."""
        write_secret(self._directory / "client.pem", self.client(ROBOT).encode())

    def client(self, name: str, lifetime_s: float = _YEAR.total_seconds(), *, limited: bool = False) -> str:
        """A client's certificate with its key, in one PEM text as a proxy is."""
        key = _key()
        subject = _subject("robots" if name == ROBOT else "people", name, *(["limited proxy"] if limited else []))
        certificate = self._issue(subject, key, timedelta(seconds=lifetime_s), ExtendedKeyUsageOID.CLIENT_AUTH)
        return (_public(certificate) + _private(key)).decode()

    def _found(self) -> None:
        key = _key()
        name = _subject("authorities", "pilot serve")
        builder = _builder(name, name, key, 10 * _YEAR)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        write_secret(self._directory / _CA_KEY, _private(key))
        write_secret(self.ca, _public(certificate), 0o644)

    def _issue(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        lifetime: timedelta,
        purpose: x509.ObjectIdentifier,
        *more: x509.ExtensionType,
    ) -> x509.Certificate:
        builder = _builder(subject, self._certificate.subject, key, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _subject(unit: str, *names: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "local"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            *(x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + lifetime
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - timedelta(minutes=5))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _own_name() -> str:
    name = socket.gethostname()
    return name if name.isascii() and name else "localhost"


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
