"""Duties beside the jobs: the token's renewal, the log's way into the cache, a sign of life."""

from __future__ import annotations

import gzip
import os
import random
from dataclasses import dataclass
from pathlib import Path

from pilot.files.opening import NotRegular, make_file, open_file, read_at
from pilot.net.credentials import Credentials
from pilot.panda.client import PandaClient
from pilot.panda.duties import Backoff, Duty, Tell
from pilot.panda.grants import GrantClient
from pilot.panda.wire import succeeded
from pilot.values.deadline import Clock
from pilot.values.errors import CredentialError, ServerError, ServerRefused
from pilot.values.events import events

log = events(__name__)

_MOST_PIECE = 50 << 20
"""What of the log goes into one upload, in bytes before compression: the server takes 100 MiB (12.1)."""


class RefreshToken(Duty):
    """Ask for a fresh token at half of the present one's life; the file's own rotation may come first."""

    policy = Backoff(5, 300)
    rank = 4

    def __init__(self, clock: Clock, rng: random.Random, credentials: Credentials, client_name: str) -> None:
        """Due when half of the present token's life is over."""
        super().__init__(clock, rng)
        self._credentials = credentials
        self._client_name = client_name
        self._plan()

    def attempt(self, client: PandaClient, tell: Tell) -> None:  # noqa: ARG002 - main does not wait for this
        """Renew, unless the file holds a newer token meanwhile."""
        before = self.due
        self._plan()
        if self.due > before and self.due > self.clock.monotonic():
            return
        try:
            fresh = GrantClient(client.wire).access_token(self._client_name, self._credentials.token_key())
        except (ServerError, CredentialError) as error:
            self.again(error)
            return
        self._credentials.refreshed(fresh)
        self.tries = 0
        self._plan()
        log.info("the token was renewed")

    def _plan(self) -> None:
        token = self._credentials.token()
        wall = self.clock.now().timestamp()
        half = token.half_life(wall) if token is not None else None
        self.done = half is None
        self.due = self.clock.monotonic() + max(0.0, (half or 0.0) - wall)


@dataclass(frozen=True, slots=True)
class LogCache:
    """Where a log goes: the upload call's URL, and the first part of its names (``<harvester>_<worker>``)."""

    url: str
    stem: str


class UploadLog(Duty):
    """Upload what is new of the pilot's log, at intervals, each piece under a name of its own.

    The canonical name can be used once only (harvester-k8s.md section 9): it is kept for `UploadWholeLog`.
    """

    policy = Backoff(10, 120)
    rank = 4

    def __init__(self, clock: Clock, rng: random.Random, file: Path, cache: LogCache, interval_s: float) -> None:
        """The first piece goes early: a pod that dies soon leaves at least that."""
        super().__init__(clock, rng)
        self._file = file
        self._cache = cache
        self._interval_s = interval_s
        self._offset = 0
        self._piece = 1
        self.due += min(10.0, interval_s)

    def attempt(self, client: PandaClient, tell: Tell) -> None:  # noqa: ARG002 - main does not wait for this
        """The next piece, if there is anything new."""
        content = _part(self._file, self._offset, _MOST_PIECE)
        try:
            if content:
                name = f"{self._cache.stem}_p{self._piece:03d}_gz.out"
                _upload(client, self._cache.url, name, content)
                self._offset += len(content)
                self._piece += 1
        except ServerRefused as error:
            log.warning("a piece of the log was refused", why=str(error))
            self._piece += 1  # the name may be taken
        except (ServerError, CredentialError) as error:
            self.again(error)
            return
        self.tries = 0
        self.due = self.clock.monotonic() + self._interval_s


class UploadWholeLog(Duty):
    """Upload the pilot's log under its canonical name, once, as one of the last words."""

    policy = Backoff(0.5, 2)
    rank = 1
    last_words = True

    def __init__(self, clock: Clock, rng: random.Random, file: Path, cache: LogCache) -> None:
        """Due at once."""
        super().__init__(clock, rng)
        self._file = file
        self._cache = cache

    def attempt(self, client: PandaClient, tell: Tell) -> None:  # noqa: ARG002 - main does not wait for this
        """Three tries; a name that is taken is no reason for another."""
        try:
            _upload(client, self._cache.url, f"{self._cache.stem}_gz.out", _ends(self._file))
            self.done = True
        except ServerRefused as error:
            log.warning("the log was refused", why=str(error))
            self.done = True
        except (ServerError, CredentialError) as error:
            self.again(error)
            self.done = self.tries >= 3  # the docstring's three


class SignOfLife(Duty):
    """Touch the heartbeat file that `pilot probe --alive` looks at."""

    rank = 6

    def __init__(self, clock: Clock, rng: random.Random, file: Path, interval_s: float) -> None:
        """Due at once, and then every ``interval_s``."""
        super().__init__(clock, rng)
        self._file = file
        self._interval_s = interval_s

    def attempt(self, client: PandaClient, tell: Tell) -> None:  # noqa: ARG002 - no call is made
        """Touch it; a full disk is not worth a word each minute."""
        try:
            _touch(str(self._file))
        except OSError as error:
            log.debug("no sign of life", why=error.strerror)
        self.due = self.clock.monotonic() + self._interval_s


def _upload(client: PandaClient, url: str, name: str, content: bytes) -> None:
    """What was logged before a secret was known may hold it: it is looked for once more."""
    cleaned = b"".join(client.wire.redactor.pieces([content]))
    succeeded(f"upload of {name}", client.wire.upload(url, name, gzip.compress(cleaned)))


def _touch(name: str) -> None:
    """Set its time to now; what else has the name, and is no directory, goes: a FIFO would keep us for ever."""
    try:
        descriptor = open_file(name, os.O_WRONLY | os.O_CREAT)
    except NotRegular:
        descriptor = make_file(name)
    try:
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def _part(file: Path, offset: int, most: int) -> bytes:
    """So much of a regular file; nothing of what else has its name."""
    try:
        descriptor = open_file(str(file))
        try:
            return read_at(descriptor, offset, most)
        finally:
            os.close(descriptor)
    except OSError:
        return b""


def _ends(file: Path) -> bytes:
    """The whole file, or its beginning and its end where it is too long."""
    try:
        size = file.lstat().st_size
    except OSError:
        return b""
    if size <= _MOST_PIECE:
        return _part(file, 0, _MOST_PIECE)
    half = _MOST_PIECE // 2
    return _part(file, 0, half) + b"\n[...]\n" + _part(file, size - half, half)
