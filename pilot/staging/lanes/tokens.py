"""Which of several bearer tokens a storage wants: by its audience, its scopes and its end.

The claims are read and not verified, that is the storage's part: WLCG tokens (``aud``, ``scope`` with
``storage.read:/path``) and SciTokens (``read:/path``), after the WLCG Common JWT Profiles 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from pilot.net.credentials import claims_of
from pilot.staging.lanes.standing import origin

_ANYBODY = ("https://wlcg.cern.ch/jwt/v1/any", "any", "*")
_READ = ("storage.read", "storage.stage", "read")
_WRITE = ("storage.create", "storage.modify", "write")


@dataclass(frozen=True, slots=True)
class Claims:
    """A token and what it says of itself; ``ends`` is a Unix time. What is no JWT says nothing."""

    path: str
    text: str
    audiences: tuple[str, ...] = ()
    scopes: tuple[tuple[str, str], ...] = ()
    ends: float | None = None

    @classmethod
    def read(cls, text: str, path: str) -> Claims:
        """Take a token as it stands in the file ``path``."""
        claims = claims_of(text)
        ends = claims.get("exp")
        return cls(
            path,
            text,
            _audiences(claims.get("aud")),
            _scopes(claims.get("scope")),
            float(ends) if isinstance(ends, int | float) else None,
        )

    def allows(self, *, write: bool) -> bool:
        """Whether its scopes speak of this kind of access; one without storage scopes does not say."""
        known = {name for name, _ in self.scopes} & {*_READ, *_WRITE}
        return not known or bool(known & {*(_WRITE if write else _READ)})

    def audience(self, place: str) -> int | None:
        """How well ``host:port`` fits: 2 for its name, 1 for anybody's, None for another's."""
        if not self.audiences:
            return 1
        names = {audience.partition("://")[2].rstrip("/") or audience for audience in self.audiences}
        if {place, place.partition(":")[0]} & names:
            return 2
        return 1 if {*self.audiences} & {*_ANYBODY} else None


def best(tokens: Sequence[Claims], url: str, now: float, *, write: bool) -> Claims | None:
    """The token for this URL; None if none is meant for it.

    Meant for this storage by name comes before meant for any; then one that has not expired, and then the
    one whose scope names most of the path.
    """
    place, path = origin(url), unquote(urlsplit(url).path)
    fitting = [one for one in tokens if one.audience(place) is not None and one.allows(write=write)]
    return max(
        fitting,
        key=lambda one: (one.audience(place), one.ends is None or one.ends > now, _depth(one, path), one.ends or now),
        default=None,
    )


def _depth(token: Claims, path: str) -> int:
    """How much of the path a scope names. Scopes are relative to a base path that only the storage knows."""
    return max((len(scope) for _, scope in token.scopes if scope.rstrip("/") in path), default=0)


def _audiences(value: Any) -> tuple[str, ...]:
    several = value if isinstance(value, list) else [value]
    return tuple(one.lower() for one in several if isinstance(one, str))


def _scopes(value: Any) -> tuple[tuple[str, str], ...]:
    text = value if isinstance(value, str) else ""
    return tuple((name, path) for name, _, path in (word.partition(":") for word in text.split()))
