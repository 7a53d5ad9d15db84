"""Bearer tokens as WLCG and SciTokens issuers sign them, and their keys where a storage server looks for them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import uuid
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.secrets import secret

ANY_AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"
"""What a WLCG token names that is meant for every storage."""

ALL_SCOPES = "storage.read:/ storage.modify:/ storage.create:/"


class Issuer:
    """Signs with a key of its own; nothing ever fetches from ``url``, where nobody listens."""

    def __init__(self, url: str = "https://127.0.0.1:9/issuer", key_id: str = "lab") -> None:
        self.url = url
        self.key_id = key_id
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        public = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [public | {"use": "sig", "alg": "ES256", "kid": self.key_id}]}

    def token(
        self,
        scope: str = ALL_SCOPES,
        *,
        audience: str | None = ANY_AUDIENCE,
        lifetime_s: float = 3600,
        subject: str = "pilot",
        scitoken: bool = False,
        **claims: object,
    ) -> str:
        """One token. A lifetime below zero makes one that has expired; ``claims`` replace what it would say."""
        now = int(time.time())
        version = {"ver": "scitoken:2.0"} if scitoken else {"wlcg.ver": "1.0"}
        # nbf lies back far enough for an expired token to have been good once
        body = {"iss": self.url, "sub": subject, "iat": now, "nbf": now - 7200, "exp": now + int(lifetime_s)}
        body |= {"jti": str(uuid.uuid4()), "scope": scope} | version
        if audience is not None:
            body["aud"] = audience
        return secret(jwt.encode(body | claims, self._key, algorithm="ES256", headers={"kid": self.key_id}))

    def fill_cache(self, folder: Path) -> list[Path]:
        """Write the key cache of libscitokens, which then asks nobody; gives back what was made."""
        home = folder / "scitokens"
        home.mkdir(parents=True)
        file = home / "scitokens_cpp.sqllite"  # spelt so by the library
        later = int(time.time()) + 864_000
        entry = json.dumps({"jwks": self.jwks, "expires": later, "next_update": later})
        with contextlib.closing(sqlite3.connect(file)) as cache, cache:
            cache.execute("CREATE TABLE keycache (issuer text UNIQUE PRIMARY KEY NOT NULL, keys text NOT NULL)")
            cache.execute("INSERT INTO keycache VALUES (?, ?)", (self.url, entry))
        return [home, file]


def token_file(folder: Path, token: str) -> Path:
    """A file for BEARER_TOKEN_FILE: root:// clients take none that others can read."""
    file = folder / f"token-{uuid.uuid4()}"
    file.touch(0o600)
    file.write_text(token)
    return file
