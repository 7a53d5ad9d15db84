"""The arguments of PanDA's wrapper for hyper-parameter jobs, runHPO, as its jobs bring them (hpo-contract.md 4.2).

They are read as its getopt does, and nothing else is done with them: the pilot does the wrapper's work itself. One
that is not known is refused by its name, as what it asks for would not be done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pilot.values.decoding import decode_literal
from pilot.values.errors import BadJob, Garbled
from pilot.values.hpo import Checkpoints, PointWork
from pilot.values.names import Lfn, Url, quoted

_MINUTES = 5.0
_MOST_LITERAL = 1 << 19  # characters: the names of some 10 000 files

_PART = re.compile(
    r"""(?P<space>[ \t\r\n]+) | '(?P<single>[^']*)' | "(?P<double>[^"\\]*(?:\\.[^"\\]*)*)" | \\(?P<one>.)
    | (?P<bare>[^ \t\r\n'"\\]+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"""\\(["\\])""")

_VALUES = {
    *("-o", "-j", "-p", "-a", "-i", "--inMap", "--writeInputToTxt", "--inSampleFile", "--outMetaFile"),
    *("--outMetricsFile", "--sourceURL", "--iddsURL", "--segmentID", "--maxLoopCount"),
    *("--checkPointToSave", "--checkPointToLoad", "--checkPointInterval"),
    *("--pandaURL", "--pandaID", "--taskID"),  # the job says it, and the server that it came from
}
"""The arguments with a value."""

_FLAGS = {
    "--dryRun",
    *("--preprocess", "--coprocess", "--postprocess"),  # the pilot does all steps
    "--debug",  # its log tells all
}
_REFUSED = {
    "--directIn": "direct access to training data is not supported",
    "--usePFCTurl": "direct access to training data is not supported",
}


class ServerUrl(Url):
    """A server's address: http or https, and a path prefix if there is one; no slash at its end."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check and keep ``text``; ValueError if it is no such address."""
        base = text.rstrip("/")
        parts = urlsplit(Url(f"{base}/x"))
        if parts.scheme not in ("http", "https") or "@" in parts.netloc or "?" in text or "#" in text:
            raise ValueError(f"{quoted(text)} is not the address of a web server")
        return str.__new__(cls, base)


IDDS = ServerUrl("https://iddsserver.cern.ch:443")
"""The iDDS of a job that names none, as jobs of phpo do: the wrapper's own."""


class Arguments(NamedTuple):
    """What a job asks for, and the inputs that it names."""

    work: PointWork
    inputs: tuple[Lfn, ...]


def read_arguments(text: str, task_id: int) -> Arguments:
    """Read them. Raises BadJob naming the argument."""
    given = dict(_split(text))
    streams = _streams(given)
    work = PointWork(
        task_id=task_id,
        command=_command(given, streams),
        point_file=_name(given, "--inSampleFile", "input_sample.json"),
        output_file=_name(given, "-o", "out.json"),
        meta_file=_name(given, "--outMetaFile", "out_metadata.json"),
        metrics=_metrics(given.get("--outMetricsFile", "")),
        data_lists=MappingProxyType(_data_lists(given.get("--writeInputToTxt", ""), streams)),
        sandbox=_parsed(given, "-a", Lfn),
        source=_parsed(given, "--sourceURL", ServerUrl),
        idds=_parsed(given, "--iddsURL", ServerUrl) or IDDS,
        segment=_parsed(given, "--segmentID", _whole),
        most_points=_parsed(given, "--maxLoopCount", _whole) or None,  # 0 is no limit
        checkpoints=_checkpoints(given),
        dry_run="--dryRun" in given,
    )
    _apart(work)
    return Arguments(work, tuple(dict.fromkeys(name for names in streams.values() for name in names)))


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Each argument with its value, "" for one that has none; of one that stands twice the last counts."""
    words = _words(text)
    for word in words:
        name, value = _named(word)
        if name in _REFUSED:
            raise BadJob("jobPars", f"runHPO argument {name}: {_REFUSED[name]}")
        if name in _VALUES:
            if (found := value if value is not None else next(words, None)) is None:
                raise BadJob("jobPars", f"runHPO argument {name}: its value is missing")
            yield name, found
        elif name in _FLAGS and value is None:
            yield name, ""
        else:
            raise BadJob("jobPars", f"runHPO argument {quoted(name)} is not known here, so the job is not run")


def _words(text: str) -> Iterator[str]:
    """The words of a command line, as a shell reads quotes and backslashes; `shlex` takes a minute for a megabyte."""
    parts: list[str] | None = None
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            raise BadJob("jobPars", f"the arguments of runHPO: {quoted(text[position : position + 20])} has no end")
        position = match.end()
        if match["space"] is None:
            double = _ESCAPED.sub(r"\1", match["double"] or "")
            parts = parts if parts is not None else []
            parts.append(double or match["single"] or match["bare"] or match["one"] or "")
        elif parts is not None:
            yield "".join(parts)
            parts = None
    if parts is not None:
        yield "".join(parts)


def _named(word: str) -> tuple[str, str | None]:
    """An argument's name, and its value where that stands in the same word: ``--name=value``, ``-nvalue``."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value if equals else None
    if word.startswith("-") and len(word) > len("-n"):
        return word[:2], word[2:]
    return word, None


def _parsed(given: Mapping[str, str], name: str, parse: Callable[[str], Any]) -> Any:
    """The value of an argument, None without one."""
    text = given.get(name, "")
    if not text:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise BadJob("jobPars", f"runHPO argument {name}: {error}") from None


def _name(given: Mapping[str, str], name: str, otherwise: str) -> Lfn:
    """A file's name. Raises BadJob for what is none, or a path."""
    return Lfn(_parsed(given, name, Lfn) or otherwise)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError(f"{quoted(text)} is not a number")
    return int(text)


def _literal(name: str, text: str) -> Any:
    """A Python literal, and nothing that could do anything."""
    if len(text) > _MOST_LITERAL:
        raise BadJob("jobPars", f"runHPO argument {name}: more than {_MOST_LITERAL} characters")
    try:
        return decode_literal(text)
    except Garbled:
        raise BadJob("jobPars", f"runHPO argument {name}: {quoted(text[:60])} is no list of files") from None


def _streams(given: Mapping[str, str]) -> dict[str, tuple[Lfn, ...]]:
    """Inputs by the name of their stream, such as IN_DATA; IN where a job names files without one."""
    streams: dict[str, tuple[Lfn, ...]] = {}
    if given.get("--inMap"):
        value = _literal("--inMap", given["--inMap"])
        if not isinstance(value, dict) or not all(re.fullmatch(r"[A-Za-z0-9_]{1,60}", str(key)) for key in value):
            raise BadJob("jobPars", "runHPO argument --inMap: no map from streams to files")
        streams = {str(stream): _names("--inMap", files) for stream, files in value.items()}
    if given.get("-i"):
        names = _names("-i", _literal("-i", given["-i"]))
        if not streams:
            return {"IN": names}
        rest = set(names) - {name for several in streams.values() for name in several}
        streams.setdefault("", tuple(name for name in names if name in rest))  # an input, and of no stream
    return streams


def _names(argument: str, files: Any) -> tuple[Lfn, ...]:
    several = [files] if isinstance(files, str) else files
    if not isinstance(several, (list, tuple)) or not all(isinstance(one, str) for one in several):
        raise BadJob("jobPars", f"runHPO argument {argument}: not a list of files")
    try:
        return tuple(Lfn(one) for one in several)
    except ValueError as error:
        raise BadJob("jobPars", f"runHPO argument {argument}: {error}") from None


def _data_lists(text: str, streams: Mapping[str, tuple[Lfn, ...]]) -> dict[Lfn, tuple[str, ...]]:
    """``IN_DATA:input_ds.json``, several with commas: the files that get the names of a stream."""
    found: dict[Lfn, tuple[str, ...]] = {}
    for entry in filter(None, text.split(",")):
        stream, _, name = entry.partition(":")
        try:
            found[Lfn(name)] = streams[stream]
        except KeyError:
            raise BadJob("jobPars", f"runHPO argument --writeInputToTxt: no input stream {quoted(stream)}") from None
        except ValueError as error:
            raise BadJob("jobPars", f"runHPO argument --writeInputToTxt: {error}") from None
    return found


def _command(given: Mapping[str, str], streams: Mapping[str, tuple[Lfn, ...]]) -> str:
    """Prefix and evaluation.

    ``%IN_DATA`` and its like become the names of a stream's files, in which there is nothing that a shell would read.
    No other byte of the text is touched.
    """
    text = unquote(given.get("-p", ""))

    def files(match: re.Match[str]) -> str:
        return ",".join(streams[match[1]])

    if patterns := "|".join(re.escape(stream) for stream in streams if streams[stream] and stream):
        text = re.sub(rf"%({patterns})(?![A-Za-z0-9_])", files, text)
    if not text.strip():
        raise BadJob("jobPars", "runHPO argument -p is missing or empty: there is nothing to evaluate")
    command = f"{given.get('-j', '')} {text}".strip()
    if "\x00" in command:
        raise BadJob("jobPars", "runHPO argument -p: it holds a NUL character")
    return command


def _apart(work: PointWork) -> None:
    """What an evaluation is given is not taken for its answer."""
    given: Iterable[Lfn] = (work.point_file, *work.data_lists)
    for name in (work.output_file, work.meta_file, *(work.metrics or ())[1:]):
        if name in given:
            raise BadJob("jobPars", f"runHPO arguments: {quoted(name)} is an input and an output of the evaluation")


def _metrics(text: str) -> tuple[Lfn, Lfn] | None:
    """``<lfn>^<name>``: the job's output, and what the evaluation leaves."""
    if not text:
        return None
    lfn, caret, name = text.partition("^")
    try:
        return Lfn(lfn), Lfn(name if caret else lfn)
    except ValueError as error:
        raise BadJob("jobPars", f"runHPO argument --outMetricsFile: {error}") from None


def _checkpoints(given: Mapping[str, str]) -> Checkpoints | None:
    names = [one for one in given.get("--checkPointToSave", "").split(",") if one]
    if not names:
        return None
    minutes = _parsed(given, "--checkPointInterval", _minutes)
    load = _parsed(given, "--checkPointToLoad", Lfn) or ""
    return Checkpoints(tuple(_below(name) for name in names), load, 60.0 * (minutes or _MINUTES))


def _minutes(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or float(text) == 0:
        raise ValueError(f"{quoted(text)} is no number of minutes")
    return float(text)


def _below(text: str) -> str:
    """A path below the evaluation's directory."""
    parts = text.rstrip("/").removeprefix("./").split("/")
    if text.startswith("/") or not all(parts) or {".", ".."} & set(parts) or not text.isprintable():
        raise BadJob("jobPars", f"runHPO argument --checkPointToSave: {quoted(text)} is no path in its directory")
    return "/".join(parts)
