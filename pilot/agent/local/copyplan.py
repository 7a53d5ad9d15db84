"""What `pilot copy` has to copy: from the words of its user to a source and a destination for each file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from pilot.staging.order import WEB, XROOT, Entry, plain
from pilot.values.errors import FileMissing, StageError, TransferFailed, UsageError
from pilot.values.names import Url

Lister = Callable[[Url], Iterable[Entry]]
"""All files below a directory of a storage. Raises a StageError: TransferFailed for what is no directory."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:/")
_HERE = ("", ".", "..")


@dataclass(frozen=True, slots=True)
class Place:
    """A SRC or DST: ``url``, not checked yet, and for a place on this machine its ``path``.

    ``name``: what it is called, the last part of it. ``inside``: it ends with a slash, or says no name.
    """

    text: str
    url: str
    path: str | None
    name: str
    inside: bool

    @classmethod
    def read(cls, text: str) -> Place:
        """Read what the user wrote. Raises UsageError, naming it, for what is neither path nor URL."""
        if not _URL.match(text):
            return cls._local(text, text)
        try:
            # a directory at the very top is one, and only no place for a single file
            url = Url(text if urlsplit(text).path.strip("/") else _below(text, "x"))
        except ValueError as error:
            raise UsageError(f"copy: {error}") from None
        if url.scheme == "file":
            return cls._local(text, url.path)
        last = urlsplit(text).path.rstrip("/").rpartition("/")[2]
        name = unquote(last) if url.scheme in WEB else last
        return cls(plain(text), text, None, name, urlsplit(text).path[-1:] in ("", "/"))

    @classmethod
    def _local(cls, text: str, path: str) -> Place:
        """A link is followed, as everywhere where a user names it."""
        if not _is_utf8(path):
            raise UsageError(f"copy: {text!a}: its name is not UTF-8")
        real, name = os.path.realpath(path), os.path.basename(path.rstrip("/"))  # noqa: PTH119 - Path drops the slash
        return cls(text, _file_url(real), real, name, path.endswith("/") or name in _HERE)

    def below(self, path: str) -> str:
        """The URL of a file that lies below it."""
        return _below(self.url, path)

    @property
    def is_directory(self) -> bool:
        """Whether it is one as far as can be told without asking a storage."""
        return self.inside or (self.path is not None and os.path.isdir(self.path))  # noqa: PTH112


@dataclass(frozen=True, slots=True)
class Item:
    """One file to be copied; ``name`` is what its user calls it, ``size`` is in bytes, None if not known yet."""

    name: str
    source: Url
    destination: Url
    size: int | None


@dataclass(slots=True)
class Plan:
    """What there is to copy, and what there is not: name and URL of each, and the reason."""

    items: list[Item] = field(default_factory=list)
    failed: list[tuple[str, str, StageError]] = field(default_factory=list)


def make_plan(sources: Sequence[Place], target: Place, lister: Lister) -> Plan:
    """Look at all sources. Raises UsageError where two files have one destination, or DST is no directory."""
    into = target.is_directory or len(sources) > 1
    planner = _Planner(lister, target, into)
    for source in sources:
        try:
            planner.take(source)
        except StageError as error:
            planner.plan.failed.append((source.text, source.url, error))
    return planner.plan


class _Planner:
    def __init__(self, lister: Lister, target: Place, into: bool) -> None:
        self.plan = Plan()
        self._lister = lister
        self._target = target
        self._into = into
        self._taken: dict[str, str] = {}
        if into:
            self._check_target()

    def take(self, source: Place) -> None:
        """Add one SRC to the plan, whatever it is. Raises StageError if nothing can be said of it."""
        if source.path is not None:
            self._take_local(source, source.path)
        else:
            self._take_remote(source)

    def _take_local(self, source: Place, path: str) -> None:
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError as error:
            raise FileMissing(f"{source.text}: {error.strerror}") from None
        if stat.S_ISDIR(found.st_mode):
            self._take_tree(source, path)
        elif not stat.S_ISREG(found.st_mode):
            raise TransferFailed(f"{source.text}: neither a regular file nor a directory")
        elif source.inside:
            raise TransferFailed(f"{source.text}: it is not a directory")
        else:
            self._add_file(source, found.st_size)

    def _take_tree(self, source: Place, top: str) -> None:
        """A link to a file is followed. One to a directory is not: it may lead anywhere, and round in circles."""
        self._check_target()

        def unreadable(error: OSError) -> None:
            path = str(error.filename)
            self._failed(path, _file_url(path), TransferFailed(f"{path}: {error.strerror}"))

        for folder, folders, names in os.walk(top, onerror=unreadable):
            folders.sort()
            for name in sorted(folders + names):
                path = os.path.join(folder, name)  # noqa: PTH118
                if name not in folders or os.path.islink(path):  # noqa: PTH114
                    self._add_local(source, path, os.path.relpath(path, top))

    def _add_local(self, source: Place, path: str, below: str) -> None:
        try:
            found = os.stat(path)  # noqa: PTH116
            if not stat.S_ISREG(found.st_mode):
                raise TransferFailed(f"{path}: a link to a directory, or no regular file: it is left out")
            self._add(source, below, _file_url(os.path.realpath(path)), found.st_size)
        except OSError as error:
            self._failed(path, _file_url(path), FileMissing(f"{path}: {error.strerror}"))
        except StageError as error:
            self._failed(path, _file_url(path), error)

    def _take_remote(self, source: Place) -> None:
        try:
            entries = list(self._lister(_url(source.url)))
        except StageError as error:
            if source.inside or not error.retryable:
                raise
            entries = [Entry("", None)]  # a storage that is busy just now: the copy itself is tried several times
        if [entry.path for entry in entries] == [""]:
            if source.inside:
                raise TransferFailed(f"{source.text}: it is not a directory")
            self._add_file(source, entries[0].size)
            return
        self._check_target()
        for entry in entries:
            try:
                self._add(source, entry.path, source.below(entry.path), entry.size)
            except StageError as error:
                self._failed(f"{source.text.rstrip('/')}/{entry.path}", source.url, error)

    def _add_file(self, source: Place, size: int | None) -> None:
        """A SRC that is a file itself."""
        if self._into:
            _check_names(source.name)
        destination = self._target.below(source.name) if self._into else self._target.url
        self._append(source.name, source.url, destination, size)

    def _add(self, source: Place, below: str, url: str, size: int | None) -> None:
        """A file in a SRC that is a directory. What a storage lists is not to be believed: no name leads out of DST."""
        _check_names(below)
        shown = below if source.inside else f"{source.name}/{below}"
        self._append(shown, url, self._target.below(shown if self._into else below), size)

    def _append(self, name: str, source: str, destination: str, size: int | None) -> None:
        item = Item(name, _url(source), _url(destination), size)
        if (other := self._taken.get(item.destination)) is not None:
            raise UsageError(f"copy: {other} and {plain(source)} would both become {plain(destination)}")
        self._taken[item.destination] = plain(source)
        self.plan.items.append(item)

    def _failed(self, name: str, url: str, error: StageError) -> None:
        self.plan.failed.append((name, url, error))

    def _check_target(self) -> None:
        path = self._target.path
        if path is not None and os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112
            raise UsageError(f"copy: {self._target.text}: it is a file, and a directory is wanted there")


def _check_names(path: str) -> None:
    """Raise TransferFailed for a path that could lead out of the directory that it is to lie in."""
    if any(part in _HERE for part in path.split("/")):
        raise TransferFailed(f"{path!a} is no path below a directory: it is left out")
    if not _is_utf8(path):
        raise TransferFailed(f"{path!a}: its name is not UTF-8: it is left out")


def _is_utf8(path: str) -> bool:
    """A name of bytes that are no text would come back from a URL as another one."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _url(text: str) -> Url:
    try:
        return Url(text)
    except ValueError as error:
        raise TransferFailed(str(error)) from None


def _file_url(path: str) -> str:
    return f"file://{quote(path, errors='surrogateescape')}"


def _below(url: str, path: str) -> str:
    """Put a path behind that of a URL; what stands behind the path (a signature) stays."""
    parts = urlsplit(url)
    folder = parts.path.rstrip("/")
    if not folder and parts.path.startswith("//"):
        folder = "/"  # root://host//: the second slash makes it absolute
    # XRootD's client takes a path as it stands, and decodes nothing
    name = path if parts.scheme in XROOT else quote(path, errors="surrogateescape")
    return parts._replace(path=f"{folder}/{name}").geturl()
