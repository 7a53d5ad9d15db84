"""Search for many needles in a text at once, at a price that hardly grows with their number.

A needle of `_LONG` bytes and more covers, wherever it stands, one of the windows that begin at each `_STEP`-th byte of
the text: these are looked up, and what they promise is compared. The few others are searched for one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

_WINDOW = _STEP = 8
_LONG = _WINDOW + _STEP - 1
_FEW = 150  # are found faster one by one
_MIXED = 4
_LEAPS = (4096, 64, 1)


class Found(NamedTuple):
    """Where a needle stands, once or ``several`` times in a row."""

    start: int
    end: int
    several: bool = False


@dataclass(frozen=True, slots=True)
class Needles:
    """What is searched for: all of it, also as one text with line breaks between, and the two ways to find it."""

    each: tuple[bytes, ...] = ()
    joined: bytes = b""
    single: tuple[tuple[bytes, bytes], ...] = ()  # each with what it repeats
    windows: Mapping[bytes, tuple[tuple[int, bytes], ...]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, needles: Iterable[bytes]) -> Needles:
        """These."""
        each = {needle: _repeated(needle) for needle in needles}
        many = {one for one in each if len(one) >= _LONG and _is_mixed(one)}
        many = many if len(many) > _FEW else set()
        single = tuple((one, unit) for one, unit in each.items() if one not in many)
        return cls(tuple(each), b"\n".join(each), single, _windows(many))

    def find(self, text: bytes) -> list[Found]:
        """Where they stand in the text."""
        found = [place for needle, unit in self.single for place in _all(text, needle, unit)]
        return [*found, *self._by_windows(text)] if self.windows else found

    def _by_windows(self, text: bytes) -> Iterator[Found]:
        """Where those stand that are found by their windows."""
        windows = self.windows
        for at in [at for at in range(0, len(text), _STEP) if text[at : at + _WINDOW] in windows]:
            for offset, needle in windows[text[at : at + _WINDOW]]:
                if at >= offset and text.startswith(needle, at - offset):
                    yield Found(at - offset, at - offset + len(needle))


def _windows(needles: Iterable[bytes]) -> Mapping[bytes, tuple[tuple[int, bytes], ...]]:
    """Which needle has a window, and where in it."""
    found: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    for needle in needles:
        for offset in range(_STEP):
            found[needle[offset : offset + _WINDOW]].append((offset, needle))
    return MappingProxyType({window: tuple(known) for window, known in found.items()})


def _is_mixed(needle: bytes) -> bool:
    """Whether none of its windows repeats few bytes: such a one, as ``00000000``, is in many texts everywhere."""
    return all(len(_repeated(needle[offset : offset + _WINDOW])) >= _MIXED for offset in range(_STEP))


@lru_cache(maxsize=1 << 13)
def _repeated(needle: bytes) -> bytes:
    """The shortest text that it is a repetition of, to its end or into its middle: itself, as a rule."""
    return next(needle[-size:] for size in range(1, len(needle) + 1) if needle.startswith(needle[size:]))


def _all(text: bytes, needle: bytes, unit: bytes) -> Iterator[Found]:
    """Where a needle stands, its repetitions as one: a file may be full of ``aaaaaa``."""
    at = text.find(needle)
    while at >= 0:
        end = at + len(needle)
        for count in _LEAPS:
            while text.startswith(unit * count, end):
                end += len(unit) * count
        yield Found(at, end, several=end > at + len(needle))
        at = text.find(needle, end - len(needle) + 1)
