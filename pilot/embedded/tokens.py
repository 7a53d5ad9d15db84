"""Bearer tokens of the server's own making: RS256, with a key that lives as long as the data."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pilot.embedded.identity import BadToken
from pilot.embedded.secretfile import write_secret

ISSUER = "https://pilot-serve.invalid/"
_ALGORITHM = "RS256"


class Tokens:
    """Makes and reads tokens. ``directory`` gets a valid one in ``token``, the key for fresh ones in ``token_key``."""

    def __init__(self, directory: Path, lifetime_s: float) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lifetime_s = lifetime_s
        self._signing = _signing_key(directory / "signing.pem")
        self._verifying = self._signing.public_key()
        self._kid = f"{self._verifying.public_numbers().n % 2**64:016x}"
        self.key = _kept(directory / "token_key")
        write_secret(directory / "token", self.mint().encode())

    def mint(
        self,
        *,
        lifetime_s: float | None = None,
        vo: str = "wlcg",
        role: str = "production",
        name: str = "Token Pilot",
        groups: Sequence[str] | None = None,
        scopes: Sequence[str] = ("openid", "offline_access"),
    ) -> str:
        """A token. Its groups are those of ``vo`` and ``role`` unless given; a lifetime below 0 is over already."""
        now = time.time()
        claims = {
            "iss": ISSUER,
            "sub": name.lower().replace(" ", "."),
            "aud": "pilot",
            "name": name,
            "groups": list(groups) if groups is not None else [f"/{vo}", *([f"/{vo}/{role}"] if role else [])],
            "scope": " ".join(scopes),
            "iat": int(now),
            "exp": math.ceil(now + (self._lifetime_s if lifetime_s is None else lifetime_s)),
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(claims, self._signing, _ALGORITHM, headers={"kid": self._kid})

    def decode(self, token: str) -> Mapping[str, Any]:
        """The claims of a valid token; raises BadToken with the live server's words."""
        try:
            if jwt.get_unverified_header(token).get("kid") != self._kid:
                raise BadToken("Unknown key")
            return jwt.decode(
                token, self._verifying, [_ALGORITHM], issuer=ISSUER, options={"verify_aud": False, "verify_iat": False}
            )
        except jwt.PyJWTError as error:
            raise BadToken(str(error)) from None


def _signing_key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, rsa.RSAPrivateKey):
            return key
    key = rsa.generate_private_key(65537, 2048)
    write_secret(
        path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return key


def _kept(path: Path) -> str:
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32).encode())
    return path.read_text(encoding="ascii").strip()
