"""Wallet: which credential goes to which storage, and to none else.

A storage gets a bearer token, a certificate, both, or nothing, by the rules of the setting
``storage_credentials``, the first that fits. A rule for ``*`` means the site's own storages only: what a job
definition names by itself is not sent anything (users-ask.md 90 to 94). Files are looked at before every copy,
for they are replaced while we run; what a lane works with is a copy of them that never changes (mode 600,
which xrootd demands), so that a new token is a new lane.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pilot.net.credentials import LOOPBACK
from pilot.staging.lanes.standing import origin
from pilot.staging.lanes.tokens import Claims, best
from pilot.staging.order import plain
from pilot.values.errors import NoCredential, UsageError
from pilot.values.events import events

log = events(__name__)

_DIGIT = "[0-9a-f]"
_NAME = _DIGIT * 20

KINDS = ("token", "tokens", "proxy", "none")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are for one storage: paths of private copies of a token and of a certificate with its key."""

    token_file: str = ""
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What storages whose ``host[:port]`` fits a pattern get: ``kind`` and the path of a file or directory."""

    pattern: str
    kind: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read ``PATTERN=KIND:PATH`` or ``PATTERN=none``. Raises UsageError."""
        pattern, equals, what = text.strip().partition("=")
        kind, _, path = what.partition(":")
        if not equals or not pattern or kind not in KINDS or bool(path) != (kind != "none"):
            raise UsageError(
                f"storage_credentials: {text[:80]!r} is not HOST[:PORT]= with token:FILE, tokens:DIRECTORY, "
                "proxy:FILE or none behind it"
            )
        return cls(pattern.lower(), kind, path)

    def fits(self, place: str, *, trusted: bool) -> bool:
        """Whether it is for this ``host:port``."""
        if self.pattern == "*":
            return trusted
        return fnmatch.fnmatchcase(place, self.pattern) or fnmatch.fnmatchcase(place.partition(":")[0], self.pattern)


class Wallet:
    """The storage credentials of one pilot."""

    def __init__(
        self,
        rules: Sequence[Rule],
        folder: Path,
        learn: Callable[[str], None] = lambda _: None,
        *,
        trusting: bool = False,
    ) -> None:
        """``folder`` is made when it is needed, and is ours alone; ``learn`` is told what each file holds.

        ``trusting``: a rule for ``*`` means every host (a person has named them).
        """
        self._rules = rules
        self._folder = folder
        self._learn = learn
        self._trusting = trusting
        self._trusted: frozenset[str] = frozenset()
        self._kept: dict[tuple[str, int, int, int], str] = {}
        self._learn_all()

    def trust(self, origins: Iterable[str]) -> None:
        """The site's own storages, as ``host[:port]``."""
        self._trusted = frozenset(origins)

    def identity(self, url: str, *, write: bool) -> Identity:
        """Who we are there. Raises NoCredential if what is meant for it cannot be read, or has expired."""
        place = origin(url)
        if not place:
            return Identity()
        token_file = certificate = ""
        for rule in self._rules:
            if not rule.fits(place, trusted=self._trusting or place in self._trusted):
                continue
            if rule.kind == "none":
                break
            if rule.kind == "proxy":
                certificate = certificate or self._keep(rule.path)
            else:
                token_file = token_file or self._token(rule, url, write=write)
        return Identity(token_file, certificate)

    def stamp(self) -> object:
        """What differs when one of the files has been replaced, or has come or gone; never raises."""
        return tuple(_seen(path) for rule in self._rules for path in _paths(rule))

    def close(self) -> None:
        """Remove the copies."""
        for path in self._kept.values():
            Path(path).unlink(missing_ok=True)
        self._kept.clear()

    def _learn_all(self) -> None:
        """Learn also what no transfer needs yet: a payload may read, and print, what we may read."""
        for rule in self._rules:
            with suppress(OSError, NoCredential):
                for path in _files(rule):
                    self._learn(Path(path).read_text("utf-8", "replace"))

    def _token(self, rule: Rule, url: str, *, write: bool) -> str:
        """A copy of the token that the rule means for this URL; "" if none of them is."""
        parts = urlsplit(url)
        if parts.scheme in ("http", "dav") and parts.hostname not in LOOPBACK:
            return ""  # who listens on the line would have it
        tokens = [Claims.read(_word(path), path) for path in _files(rule)]
        now = time.time()
        token = tokens[0] if rule.kind == "token" and rule.pattern != "*" else best(tokens, url, now, write=write)
        if token is None:
            log.debug("none of the tokens is meant for this storage", url=plain(url), tokens=rule.path)
            return ""
        self._learn(token.text)
        if token.ends is not None and token.ends <= now:
            raise NoCredential(f"{plain(url)}: the token in {token.path} has expired {now - token.ends:.0f} s ago")
        return self._keep(token.path)

    def _keep(self, path: str) -> str:
        """A private copy of a file as it is now."""
        try:
            seen = _version(path)
            if seen not in self._kept:
                content = Path(path).read_bytes()
                self._learn(content.decode("utf-8", "replace"))
                self._kept[seen] = self._copied(content)
        except OSError as error:
            raise NoCredential(f"storage credential {path}: {error.strerror}") from None
        return self._kept[seen]

    def _copied(self, content: bytes) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._kept:  # what a life that was killed has left
            for old in self._folder.glob(_NAME):
                old.unlink(missing_ok=True)
        target = self._folder / hashlib.sha256(content).hexdigest()[: len(_NAME) // len(_DIGIT)]
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600, exist_ok=False)
        part.write_bytes(content)
        part.rename(target)
        return str(target)


def _files(rule: Rule) -> list[str]:
    if rule.kind != "tokens":
        return [rule.path] if rule.path else []
    try:  # Kubernetes keeps the files of a Secret below names that begin with dots
        return sorted(entry.path for entry in os.scandir(rule.path) if entry.is_file() and entry.name[0] != ".")
    except OSError as error:
        raise NoCredential(f"storage credentials {rule.path}: {error.strerror}") from None


def _paths(rule: Rule) -> list[str]:
    """Its files, as far as they can be seen."""
    try:
        return [] if rule.kind == "none" else _files(rule) if rule.kind == "tokens" else [rule.path]
    except NoCredential:
        return []


def _version(path: str) -> tuple[str, int, int, int]:
    found = Path(path).stat()
    return path, found.st_ino, found.st_mtime_ns, found.st_size


def _seen(path: str) -> object:
    try:
        return _version(path)
    except OSError as error:
        return path, error.errno


def _word(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not ASCII"
        raise NoCredential(f"storage credential {path}: {why}") from None
    if not text or not text.isprintable() or " " in text:
        raise NoCredential(f"storage credential {path}: empty, or more than one word")
    return text
