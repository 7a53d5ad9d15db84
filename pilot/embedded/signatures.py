"""The signatures of the PanDA calls, checked with the live server's own strictness and words.

The order of checks and all texts are those of panda-protocol.md 1.4, seen again on the live server.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_origin

from werkzeug.datastructures import FileStorage

_NEEDED = inspect.Parameter.empty
Kind = tuple[Any, ...]
"""The types that a field accepts; none: anything, two: a union, which the server cannot put into words."""

ANY: Kind = ()
INT: Kind = (int,)
FLOAT: Kind = (float,)
STR: Kind = (str,)
BOOL: Kind = (bool,)
INTS: Kind = (list[int],)
TEXTS: Kind = (list[str],)
LIST: Kind = (list[Any],)
NUMBER: Kind = (int, float)
OBJECT_OR_TEXT: Kind = (dict, str)
FILE: Kind = (FileStorage,)
BUILTIN_ID: Kind = (id,)
"""What the live server's own slip made of a type: whatever is given for it crashes the call."""


class Refused(Exception):
    """The arguments do not fit; the text is the answer's message."""


class Crashed(Exception):
    """The live server crashes on these arguments; the text is the body of its HTTP 500."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API: its module, its HTTP method, its fields in order with type and default, and for whom.

    ``secure`` calls want to know who calls, ``production`` ones want the caller to have that role.
    """

    module: str
    name: str
    method: str
    fields: Mapping[str, tuple[Kind, Any]]
    secure: bool = True
    production: bool = True

    def check(self, method: str, sent: object) -> dict[str, Any]:
        """The arguments with all defaults filled in; raises Refused or Crashed."""
        if method != self.method:
            raise Refused(f"expecting {self.method}, received {method}")
        arguments = self._bind(sent)
        if method == "GET":
            arguments = {name: _cast(name, self.fields[name][0], value) for name, value in arguments.items()}
        for name, value in arguments.items():
            kind, default = self.fields[name]
            _check_type(name, kind, default, value)
        return {**{name: default for name, (_, default) in self.fields.items()}, **arguments}

    def _bind(self, sent: object) -> dict[str, Any]:
        if not isinstance(sent, dict):
            where = f"pandaserver.api.v1.{self.module}_api.{self.name}()"
            raise Crashed(f"{where} argument after ** must be a mapping, not {type(sent).__name__}")
        try:
            return self._signature().bind(**sent).arguments
        except TypeError as error:
            raise Refused(f"Argument error: {error}") from None

    def _signature(self) -> inspect.Signature:
        return inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
                for name, (_, default) in self.fields.items()
            ]
        )


def _check_type(name: str, kind: Kind, default: object, value: object) -> None:
    """Raise what the server raises for a value of the wrong type; one equal to the default always passes."""
    if not kind or value == default or _is(value, kind):
        return
    if len(kind) > 1:
        raise Crashed("'types.UnionType' object has no attribute '__name__'")
    raise Refused(f"Type error: '{name}' must be of type {_word(kind)}, got {type(value).__name__}.")


def _is(value: object, kind: Kind) -> bool:
    kinds: Any = tuple(get_origin(one) or one for one in kind)
    try:
        return isinstance(value, kinds)
    except TypeError as error:
        raise Crashed(str(error)) from None


def _word(kind: Kind) -> str:
    return "List" if _is_list(kind) else str(kind[0].__name__)


def _is_list(kind: Kind) -> bool:
    return kind in (INTS, TEXTS, LIST)


def _cast(name: str, kind: Kind, value: Any) -> Any:
    """A value of a query string as the field's type."""
    if _is_list(kind) and not isinstance(value, list):
        value = [value]
    try:
        if value == "None":
            return None
        if kind == INTS:
            return [int(one) for one in value]
        if kind == INT:
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        got = type(value).__name__
        text = f"Type error: '{name}' with value '{value}' could not be casted to type {_word(kind)} from {got}."
        raise Refused(text) from None
    return value


def fields(
    needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, **defaults: object
) -> dict[str, tuple[Kind, Any]]:
    """The fields of a call; an optional one's default is None unless given."""
    told: dict[str, tuple[Kind, Any]] = {name: (kind, _NEEDED) for name, kind in needed.items()}
    return told | {name: (kind, defaults.get(name)) for name, kind in (optional or {}).items()}
