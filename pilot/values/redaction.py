"""Redactor: takes secrets out of what leaves the pilot, texts and streams of bytes.

It is used where something is sent or packed, before anything is escaped or cut: `encodings` knows in which ways a
secret may stand in a text nevertheless. Where a text was cut within a secret, what is left of it at the text's very
beginning or end is taken out as well, if it is `_EDGE` bytes or more.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any, Protocol
from urllib.parse import unquote

from pilot.values.encodings import LONGEST, needles, normal
from pilot.values.needles import Found, Needles

_MASK = "***"
_EDGE = 8
_MOST_NEEDLES = 4000  # of a job, and of ours: a MiB takes 0.05 s, to learn them 0.1 s
_MOST_DEPTH = 100
_PIECE = 1 << 20
_SOME = 16
_MOST_SPAN = 2 * LONGEST + _SOME  # of a needle, with the line breaks in it

Span = tuple[int, int]

_PATTERNS = (
    re.compile(r"(?i)(?P<kept>bearer[ %20+]{1,3})(?P<secret>[\w.~+/=-]{8,})"),
    re.compile(r"(?i)(?P<kept>authorization['\"]?[:=] ?['\"]?(?:basic |bearer )?)(?P<secret>[\w.~+/=-]{8,})"),
    re.compile(
        r"(?i)(?P<kept>(?:authz|(?:access_|refresh_|id_)?token|sig|"
        r"(?:X-(?:Amz|Goog)-)?(?:Signature|Credential|Security-Token))"
        r"['\"]?(?:=|%3D|['\"]: ?)['\"]?)(?P<secret>[^&\s\"']+)"
    ),
    re.compile(r"(?P<kept>\w://[^/\s:@\"']*:)(?P<secret>[^/\s@\"']+)(?=@)"),  # user:password@host
    re.compile(r"(?P<kept>)(?P<secret>\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"),  # a JWT
)
"""What looks like a secret, in texts of the pilot's own making."""


class Readable(Protocol):
    """What can be read as an open file can."""

    def read(self, count: int, /) -> bytes:
        """So many bytes at most; none at its end."""


class Redactor:
    """Takes secrets out of text: those it was told, and what looks like one. For all threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._own: dict[str, dict[bytes, int]] = {}
        self._of_job: dict[str, dict[bytes, int]] = {}
        self._known = Needles()

    def learn(self, secret: object) -> None:
        """Hide this from now on: a text, or an object and all its texts (those of 6 characters and more)."""
        self._add(self._own, secret)

    def learn_from(self, text: str) -> None:
        """Hide what in this text looks like a secret, such as the password or the signature in a URL."""
        for secret in _secrets_in(text):
            self.learn(secret)

    def learn_of_job(self, secret: object) -> None:
        """The same for a secret of the job that is being worked on."""
        self._add(self._of_job, secret)

    def begin_job(self, secrets: Iterable[object], texts: Iterable[str] = ()) -> None:
        """A job begins, with these secrets, and those in these texts; those of the job before are forgotten."""
        with self._lock:
            self._of_job = {}
            self._known = Needles.of(_newest(self._own))
        self._add(self._of_job, *secrets, *(one for text in texts for one in _secrets_in(text)))

    def clean(self, text: str) -> str:
        """The text with ``***`` in place of secrets."""
        text = self._without_known(text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<kept>{_MASK}", text)
        return text

    def value(self, value: Any, depth: int = _MOST_DEPTH) -> Any:
        """The same for all texts in a value of JSON; what lies deeper than 100 levels is left out."""
        match value:
            case str():
                return self.clean(value)
            case dict() | list() | tuple() if not depth:
                return _MASK
            case dict():
                return {self.value(key, depth - 1): self.value(one, depth - 1) for key, one in value.items()}
            case list() | tuple():
                return [self.value(one, depth - 1) for one in value]
        return value

    def json_text(self, text: str) -> str:
        """A JSON text without the secrets in it, still JSON; any other text as `clean` leaves it."""
        try:
            return json.dumps(self.value(json.loads(text)))
        except (ValueError, RecursionError):
            return self.clean(text)

    def pieces(self, source: Iterable[bytes]) -> Iterator[bytes]:
        """A stream of bytes in pieces of any size, each secret in it overwritten with as many ``*``.

        As much comes out as goes in: a tarball names the size of a member first.
        """
        return _pieces(source, lambda: self._known)

    def stream(self, source: Readable) -> Cleaned:
        """The same for an open file."""
        return Cleaned(self.pieces(iter(lambda: source.read(_PIECE), b"")))

    def _add(self, store: dict[str, dict[bytes, int]], *secrets: object) -> None:
        with self._lock:
            news = {str(one): needles(one) for one in secrets if str(one) not in store}
            if news:
                store.update(news)
                self._known = Needles.of({**_newest(self._own), **_likeliest(self._of_job)})

    def _without_known(self, text: str) -> str:
        raw = text.encode("utf-8", "surrogatepass")
        spans = _merged([*_spans(raw, self._known), *_edges(raw, self._known, start=True, end=True)])
        if not spans:
            return text
        ends = [0, *(end for _, end in spans)]
        kept = [raw[end:start] for end, (start, _) in zip(ends, spans)]  # noqa: B905 - the last end is its own
        return _MASK.join(part.decode("utf-8", "replace") for part in [*kept, raw[ends[-1] :]])


class Cleaned:
    """A stream that can be read, of cleaned pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = bytearray()

    def read(self, count: int = -1, /) -> bytes:
        """So many bytes, or all; less at the end only."""
        while not 0 <= count <= len(self._rest) and (piece := next(self._pieces, b"")):
            self._rest += piece
        end = len(self._rest) if count < 0 else count
        given = bytes(self._rest[:end])
        del self._rest[:end]
        return given


def _secrets_in(text: str) -> Iterator[str]:
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            yield match["secret"]
            yield unquote(match["secret"])


def _newest(store: dict[str, dict[bytes, int]]) -> dict[bytes, int]:
    """The needles of our own secrets; of many tokens in a long life the oldest are forgotten."""
    while len(store) > 1 and sum(map(len, store.values())) > _MOST_NEEDLES:
        del store[next(iter(store))]
    return {needle: rank for one in store.values() for needle, rank in one.items()}


def _likeliest(store: dict[str, dict[bytes, int]]) -> dict[bytes, int]:
    """The needles of a job's secrets; of too many those that are likely to be met."""
    ranked = sorted((item for one in store.values() for item in one.items()), key=lambda item: item[1])
    return dict(ranked[:_MOST_NEEDLES])


def _pieces(source: Iterable[bytes], known: Callable[[], Needles]) -> Iterator[bytes]:
    """The stream, `_MOST_SPAN` bytes behind what was read: a secret may end in what comes next."""
    held, hidden, start = b"", 0, True  # of what is held the first ``hidden`` bytes are a secret's end
    for piece in source:
        held += piece
        if (ready := len(held) - _MOST_SPAN) <= 0:
            continue
        spans = _merged([(0, hidden), *_spans(held, known()), *_edges(held, known(), start=start)])
        yield _masked(held[:ready], spans)
        hidden = max((end - ready for begin, end in spans if begin < ready), default=0)
        held, hidden, start = held[ready:], max(0, hidden), False
    spans = [(0, hidden), *_spans(held, known()), *_edges(held, known(), start=start, end=True)]
    if held:
        yield _masked(held, _merged(spans))


def _masked(text: bytes, spans: Iterable[Span]) -> bytes:
    """The text with stars on it, line breaks but for those."""
    result = bytearray(text)
    for start, end in spans:
        result[start:end] = re.sub(rb"[^\r\n]", b"*", text[start:end])
    return bytes(result)


def _spans(text: bytes, known: Needles) -> list[Span]:
    """Where the needles stand in the text, with the line breaks that are among them."""
    found = known.find(normal(text)) if known.each else []
    return _there(text, found) if found else []


def _edges(text: bytes, known: Needles, *, start: bool = False, end: bool = False) -> list[Span]:
    """What a cut has left of a secret at the text's start and end."""
    found: list[Span] = []
    first, last = normal(text[:_MOST_SPAN]), normal(text[-_MOST_SPAN:])
    behind = max(0, len(text) - _MOST_SPAN)
    if start and len(first) >= _EDGE and first[:_EDGE] in known.joined:
        lengths = [_begins(first, needle) for needle in known.each]
        found += _there(text, [Found(0, length) for length in lengths if length])
    if end and len(last) >= _EDGE and last[-_EDGE:] in known.joined:
        lengths = [_ends(last, needle) for needle in known.each]
        spans = _there(text[behind:], [Found(len(last) - length, len(last)) for length in lengths if length])
        found += [(behind + one, behind + other) for one, other in spans]
    return found


def _begins(text: bytes, needle: bytes) -> int:
    """How much of the text's beginning is the end, or the middle, of the needle."""
    at = needle.find(text[:_EDGE], 1)
    while at > 0:
        rest = needle[at:]
        if text.startswith(rest) or rest.startswith(text):
            return min(len(text), len(rest))
        at = needle.find(text[:_EDGE], at + 1)
    return 0


def _ends(text: bytes, needle: bytes) -> int:
    """How much of the text's end is the beginning of the needle."""
    at = needle.rfind(text[-_EDGE:], 0, -1)
    while at >= 0:
        if text.endswith(needle[: at + _EDGE]):
            return at + _EDGE
        at = needle.rfind(text[-_EDGE:], 0, at + _EDGE - 1)
    return 0


def _there(text: bytes, places: Iterable[Found]) -> list[Span]:
    """Places in the normal text as spans of the text itself; no needle that is mostly line breaks."""
    before, gone = [0], [0]  # so many bytes are gone from that place of the normal text on
    for breaks in re.finditer(rb"[\r\n]+", text):
        before.append(breaks.start() - gone[-1])
        gone.append(gone[-1] + breaks.end() - breaks.start())

    def there(at: int) -> int:
        return at + gone[bisect_right(before, at) - 1]

    spans = [(there(one.start), there(one.end - 1) + 1, one) for one in places]
    return [
        (start, end) for start, end, one in spans if one.several or end - start <= 2 * (one.end - one.start) + _SOME
    ]


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that touch as one."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif end > start:
            result.append((start, end))
    return result
