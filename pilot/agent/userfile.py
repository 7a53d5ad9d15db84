"""Files that people write, in YAML or JSON: read within limits, as the values that JSON has, and no others.

YAML can say more than any of our files needs, and some of it ends a careless reader: aliases that stand for 10^7
values, mappings merged into each other, dates, numbers without end. Here a date is its text, and what is too much,
or no value of JSON, is refused in one line.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from pilot.values.decoding import Rules, decode_json
from pilot.values.errors import NotJson, UsageError
from pilot.values.names import is_whole

_MOST_BYTES = 8 << 20
_MOST_YAML = 1 << 20
_MOST_VALUES = 200_000
_DEEPEST = 50
_JSON = Rules(most_bytes=_MOST_BYTES, most_elements=_MOST_VALUES, most_depth=_DEEPEST)
_TAG = "tag:yaml.org,2002:"


def read_text(file: Path) -> str:
    """What is in it. Raises UsageError."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UsageError(f"{file}: larger than {_MOST_BYTES >> 20} MiB")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def parse(text: str) -> Any:
    """The value of a YAML or JSON text; None for an empty one. Raises ValueError."""
    value = _parsed(text)
    _check(value)
    return value


def _parsed(text: str) -> Any:
    if text.lstrip().startswith(("{", "[")):
        with suppress(NotJson):  # it may be YAML that looks like it
            return decode_json(text, _JSON)
    if len(text) > _MOST_YAML:
        raise ValueError(f"YAML of more than {_MOST_YAML >> 20} MiB takes too long to read: write it as JSON")
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, with less
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, LookupError, ValueError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


class _Loader(yaml.SafeLoader):
    """Knows the types of JSON only, and bounds what mappings merge."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what ``<<`` names."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES // 10:
            raise ValueError("a mapping that merges too much")


_Loader.yaml_constructors = {
    f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"]
    for name in ("null", "bool", "int", "float", "str", "seq", "map")
} | {None: yaml.SafeLoader.yaml_constructors[None]}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in several if tag != f"{_TAG}timestamp"]
    for first, several in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _check(value: Any) -> None:
    """Raise ValueError for what no JSON has, and for too much of it: an alias counts as what it stands for."""
    inside, count = [(value, 1)], 1
    while inside:
        one, depth = inside.pop()
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"holds {one}, which is no number")
        if isinstance(one, int) and not isinstance(one, bool) and abs(one) >= 1 << 64:
            raise ValueError("holds a number beyond all measure")
        if isinstance(one, str) and not is_whole(one):
            raise ValueError("holds a NUL character, or half a character")
        if not isinstance(one, dict | list):
            continue
        count += 2 * len(one)
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise ValueError(f"nested deeper than {_DEEPEST} levels, or more than {_MOST_VALUES} values")
        inside += [(inner, depth + 1) for inner in one]
        inside += [(inner, depth + 1) for inner in one.values()] if isinstance(one, dict) else []
