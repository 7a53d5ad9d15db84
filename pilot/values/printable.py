"""Text of others as it may be shown: nothing in it moves a cursor, sets a clipboard or turns the writing around.

What payloads, servers and storages send goes through one of these before it reaches a terminal, a log or a page.
Not printable is what Unicode says is not: control characters, also those above 127, marks of direction, characters
without width, halves of surrogate pairs. In their place stands ``?``.
"""

from __future__ import annotations

from typing import Any


def line(text: str) -> str:
    r"""One line: white space of any kind is a blank.

    >>> line("a\tb\r\nc\x1b[2Jd\u202ee")
    'a b  c?[2Jd?e'
    """
    return text if text.isprintable() else "".join(map(_in_line, text))


def block(text: str) -> str:
    r"""Several lines: line breaks and tabs stay; what a terminal would overwrite stands in lines of its own.

    >>> block("a\tb\r\nc\rd\x1bc")
    'a\tb\nc\nd?c'
    """
    if text.isprintable():
        return text
    return "".join(map(_in_block, text.replace("\r\n", "\n").replace("\r", "\n")))


def lines(value: Any) -> Any:
    """A value of JSON with one line for each text in it."""
    match value:
        case str():
            return line(value)
        case dict():
            return {lines(key): lines(one) for key, one in value.items()}
        case list() | tuple():
            return [lines(one) for one in value]
    return value


def _in_line(char: str) -> str:
    return char if char.isprintable() else " " if char.isspace() else "?"


def _in_block(char: str) -> str:
    return char if char in "\n\t" else _in_line(char)
