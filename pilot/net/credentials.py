"""The pilot's own credentials towards the PanDA server: a proxy certificate, a token, or both.

Files are read again when they change: Kubernetes replaces the files of a mounted Secret in place
(harvester-k8s.md section 4). With both, the token decides (corrections B8). Payload and storage have
credentials of their own, which do not come through here.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pilot.net.x509 import certificate_end
from pilot.values.decoding import decode_json
from pilot.values.errors import CredentialError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Where credentials lie; empty text for what there is none of.

    Args:
        token: a file with a bearer token; a bare name is looked for in ``token_folders``.
        token_folders: where Harvester may have put it (``PANDA_AUTH_DIR``, with or without trailing slash).
        token_key: likewise a file, with the key that a fresh token is asked for with.
        origin: the Origin header, ``<vo>.<role>``; the server demands it beside a token.
        certificate: a PEM file with certificate and key.
    """

    token: str = ""
    token_folders: tuple[str, ...] = ()
    token_key: str = ""
    origin: str = ""
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; ``begins`` and ``ends`` are Unix times, None where it does not say so."""

    text: str
    begins: float | None = None
    ends: float | None = None

    @classmethod
    def read(cls, text: str) -> Token:
        """Take a token as it stands in a file. What is no JWT is a token without times."""
        text = text.strip()
        claims = claims_of(text)
        begins = claims.get("nbf", claims.get("iat"))
        ends = claims.get("exp")
        return cls(text, _number(begins), _number(ends))

    def half_life(self, now: float) -> float | None:
        """When half of its life is over, counted from ``now`` if it does not say when that began."""
        if self.ends is None:
            return None
        begins = self.begins if self.begins is not None else now
        return begins + (self.ends - begins) / 2


class Credentials:
    """What goes with each call to the server. To be used by several threads, each with connections of its own."""

    def __init__(self, files: CredentialFiles, learn: Callable[[str], None], wall_clock: Callable[[], float]) -> None:
        """Find the files. ``learn`` is told every secret, so that no log shows it.

        Raises CredentialError if something was named, and nothing of it is there.
        """
        self._learn = learn
        self._wall_clock = wall_clock
        self._origin = files.origin
        self._token_file = _find(files.token, files.token_folders)
        self._key_file = _find(files.token_key, files.token_folders)
        self._certificate = files.certificate if files.certificate and Path(files.certificate).is_file() else ""
        self._learn_all()
        self._fresh: Token | None = None
        self._file_token: Token | None = None
        if (files.token or files.certificate) and not (self._token_file or self._certificate):
            named = ", ".join(filter(None, (files.certificate, files.token)))
            raise CredentialError(f"no credential: {named} cannot be found or read")
        if self._token_file and not self._origin:
            raise CredentialError("a token needs an origin: set PANDA_AUTH_ORIGIN to <vo>.<role>")
        if self._certificate_is_over():
            if not self._token_file:
                raise CredentialError(f"the certificate in {self._certificate} has expired")
            self._certificate = ""  # a server would refuse the connection, whatever the token

    @property
    def certificate(self) -> str:
        """The PEM file to present, "" for none."""
        return self._certificate

    def headers(self, url: str) -> dict[str, str]:
        """Authorization and Origin, nothing without a token. Raises CredentialError for an expired one.

        A token goes over TLS only, but on loopback.
        """
        token = self.token()
        if token is None:
            if self._certificate_is_over():
                raise CredentialError(f"the certificate in {self._certificate} has expired")
            return {}
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise CredentialError(f"{parts.scheme}://{parts.hostname}: a token is not sent without TLS")
        if token.ends is not None and token.ends <= self._wall_clock():
            raise CredentialError(f"the token in {self._token_file} has expired")
        return {"Authorization": f"Bearer {token.text}", "Origin": self._origin}

    def token(self) -> Token | None:
        """The token to be used now: of the file's and a refreshed one, the one that lives longer."""
        if self._token_file is None:
            return None
        self._file_token = self._reread() or self._file_token
        candidates = [one for one in (self._file_token, self._fresh) if one is not None]
        return max(candidates, key=lambda one: one.ends if one.ends is not None else float("inf"), default=None)

    def token_key(self) -> str:
        """The key to ask for a fresh token with; "" if there is none."""
        if self._key_file is None:
            return ""
        key = _read(self._key_file)
        self._learn(key)
        return key

    def refreshed(self, text: str) -> None:
        """Use this token from now on, until the file holds one that lives longer."""
        self._fresh = Token.read(text)
        self._learn(self._fresh.text)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """What the files look like now: where it differs from what one saw last, connections are to be made anew."""
        return tuple(_stamp(file) for file in (self._certificate, str(self._token_file or "")) if file)

    def _learn_all(self) -> None:
        """Learn also what is not used yet: a payload may read, and print, what we may read."""
        for file in [one for one in (self._certificate, self._token_file, self._key_file) if one]:
            with suppress(OSError):
                self._learn(Path(file).read_text("utf-8", "replace"))

    def _certificate_is_over(self) -> bool:
        try:
            end = certificate_end(Path(self._certificate).read_text(errors="replace")) if self._certificate else None
        except OSError:  # in the middle of a rotation
            return False
        return end is not None and end <= self._wall_clock()

    def _reread(self) -> Token | None:
        """The file's token; None while it cannot be read, as in the middle of a rotation."""
        try:
            text = _read(self._token_file or Path())
        except CredentialError:
            if self._file_token is None:
                raise
            return None
        self._learn(text)
        return Token.read(text)


def _find(name: str, folders: tuple[str, ...]) -> Path | None:
    """The file: as it is, or by its bare name in one of the folders, or in the folder that a path stands in."""
    if not name:
        return None
    candidates = [Path(name)] if os.sep in name else []
    for folder in filter(None, folders):
        candidates += [Path(folder) / name, Path(folder).parent / name]
    return next((one for one in candidates if one.is_file()), None)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not ASCII'}") from None
    if not text or not text.isprintable() or " " in text:
        raise CredentialError(f"{file}: empty, or more than one word")
    return text


def _stamp(file: str) -> tuple[int, int]:
    try:
        found = Path(file).stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)


def claims_of(text: str) -> dict[str, Any]:
    """The claims of a JWT (RFC 7519), not verified: that is the server's part. {} for any other text."""
    parts = text.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = decode_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
