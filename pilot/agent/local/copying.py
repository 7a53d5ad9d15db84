"""What `pilot copy` does: the same lanes that jobs have, a line for each file, and a clean end when it is stopped."""

from __future__ import annotations

import logging
import math
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pilot.agent import configuration
from pilot.agent.local.copyplan import Item, Place, Plan, make_plan
from pilot.agent.local.copyview import Copied, NotCopied, Tally, View, view
from pilot.agent.saying import say_json
from pilot.agent.transfers import credential_rules, lane_settings
from pilot.staging.lanes.lanes import Lanes, LaneSettings
from pilot.staging.lanes.wallet import Rule, Wallet
from pilot.staging.order import WEB, XROOT
from pilot.staging.transfer import Hop, Moved, Route, ThirdParty, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError, Stopped, UsageError
from pilot.values.events import TextFormatter
from pilot.values.names import Checksum, Url
from pilot.values.redaction import Redactor
from pilot.values.settings import Settings
from pilot.values.stop import Reason, Stop

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Request:
    """What the user has asked for, as the options say it."""

    sources: tuple[str, ...]
    target: str
    checksum: Checksum | None = None
    third_party: ThirdParty | None = None
    overwrite: bool = False
    parallel: int | None = None
    token: str | None = None
    tokens: str | None = None
    proxy: str | None = None
    ca: str | None = None
    config: str | None = None
    as_json: bool = False
    verbose: bool = False


def copy_files(request: Request, redactor: Redactor) -> int:
    """Copy what there is to copy; 0 if all is there now, 1 if not. Raises UsageError."""
    sources, target = [Place.read(text) for text in request.sources], Place.read(request.target)
    _check_third_party(request, sources, target)
    settings = configuration.load({"ca": request.ca, "lanes": request.parallel}, request.config).settings
    rules, tally = _rules(request, settings), Tally()
    with (
        _interrupts() as interrupts,
        view(quiet=request.as_json) as shown,
        _told(shown if request.verbose else None, redactor),
        tempfile.TemporaryDirectory(prefix="pilot-copy-") as folder,
        Lanes(_patient(lane_settings(settings)), Wallet(rules, Path(folder), redactor.learn, trusting=True)) as lanes,
    ):
        work = _Copying(request, lanes, interrupts, shown, tally)
        try:
            work.run(sources, target)
        except (Stopped, _Interrupted):
            shown.warn(f"pilot: copy: interrupted {work.how_far()}")
        tally.seconds = time.monotonic() - tally.began
        if tally.copied or len(work.plan.items) > 1:
            shown.result(tally.summary())
    if request.as_json:
        say_json(redactor.value(tally.as_json()))
    if interrupts.number is not None:
        return _SIGNALLED + interrupts.number
    return 1 if tally.failed else 0


class _Copying:
    """One run, from looking at the sources to the last file."""

    def __init__(self, request: Request, lanes: Lanes, interrupts: _Interrupts, shown: View, tally: Tally) -> None:
        self.plan = Plan()
        self._request = request
        self._lanes = lanes
        self._interrupts = interrupts
        self._view = shown
        self._tally = tally

    def run(self, sources: Sequence[Place], target: Place) -> None:
        """Raises Stopped, _Interrupted; UsageError if what was found does not go with what was asked for."""
        with self._interrupts.at_once():  # nothing is under way yet, and a storage may be long in answering
            self.plan = make_plan(sources, target, lambda url: self._lanes.find(url, Deadline.never()))
        if self._request.checksum is not None and len(self.plan.items) > 1:
            raise UsageError(f"copy: --checksum {self._request.checksum} is of one file, and there is more than one")
        for name, url, error in self.plan.failed:
            self._failed(NotCopied(name, url, error))
        if not self.plan.items and not self.plan.failed:
            self._view.result(f"nothing to copy: no file in {', '.join(source.text for source in sources)}")
        self._move_all()

    def how_far(self) -> str:
        """How far it came."""
        if not self.plan.items:
            return "before anything was copied"
        ended = len(self._tally.copied) + len(self._tally.failed) - len(self.plan.failed)
        return f"after {ended} of {len(self.plan.items)} files, nothing partial is left"

    def _move_all(self) -> None:
        self._view.begin(self.plan.items)
        items = {self._transfer(item): item for item in self.plan.items}

        def progress(transfer: Transfer, count: int) -> None:
            self._view.progress(items[transfer], count)

        with closing(self._lanes.move_all(items, Deadline.never(), self._interrupts.stop, progress)) as ends:
            for transfer, end in ends:
                self._ended(items[transfer], end)

    def _ended(self, item: Item, end: Moved | StageError) -> None:
        if isinstance(end, StageError):
            self._failed(NotCopied(item.name, item.source, end, item))
            return
        one = Copied(item, end)
        self._tally.copied.append(one)
        self._view.copied(one)

    def _failed(self, one: NotCopied) -> None:
        self._tally.failed.append(one)
        self._view.failed(one)

    def _transfer(self, item: Item) -> Transfer:
        hop = Hop(item.source, item.destination, self._request.third_party)
        return Transfer(
            item.name,
            "in" if item.destination.scheme == "file" else "out",
            (Route((hop,)),),
            item.size,
            self._request.checksum,
            overwrite=self._request.overwrite,
        )


class _Interrupted(Exception):
    """A signal came while nothing was under way."""


@dataclass(slots=True)
class _Interrupts:
    """Ctrl-C and its relatives: ``number`` is the signal that came first, ``stop`` is for what is under way."""

    stop: Stop = field(default_factory=Stop)
    number: int | None = None
    _raising: bool = False

    def came(self, number: int, _frame: Any) -> None:
        """The handler."""
        if self.number is None:
            self.number = number
        self.stop.request(Reason.SIGINT if number == signal.SIGINT else Reason.SIGTERM)
        if self._raising:
            raise _Interrupted

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A part that a signal shall break off wherever it is."""
        self._raising = True
        try:
            yield
        finally:
            self._raising = False


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Listen to signals; one that is ignored (`nohup`) stays so, and the handlers of before come back."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    with Stop() as stop:
        interrupts = _Interrupts(stop)
        for number in before:
            signal.signal(number, interrupts.came)
        try:
            yield interrupts
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _ToView(logging.Handler):
    """Events as lines on stderr, above the bars."""

    def __init__(self, shown: View, redactor: Redactor) -> None:
        super().__init__()
        self._view = shown
        self.setFormatter(TextFormatter(redactor))

    def emit(self, record: logging.LogRecord) -> None:
        self._view.warn(self.format(record))


@contextmanager
def _told(shown: View | None, redactor: Redactor) -> Iterator[None]:
    """The lanes' events go to the view, or nowhere: Python would print the warnings among them."""
    logger = logging.getLogger("pilot")
    handler = logging.NullHandler() if shown is None else _ToView(shown, redactor)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _check_third_party(request: Request, sources: Iterable[Place], target: Place) -> None:
    if request.third_party is None:
        return
    schemes = {Url(place.below("x")).scheme for place in (*sources, target)}
    if not (schemes <= WEB or schemes <= XROOT):
        raise UsageError("copy: --third-party wants http or dav on both sides, or root on both sides")


def _rules(request: Request, settings: Settings) -> list[Rule]:
    """What storages get: the options first, then the settings. ``*`` means all that the user has named."""
    options = [("token", request.token), ("tokens", request.tokens), ("proxy", request.proxy)]
    if request.ca and not Path(request.ca).exists():
        raise UsageError(f"copy: --ca {request.ca}: no such file or directory")
    for kind, path in options:
        if path and not (Path(path).is_dir() if kind == "tokens" else Path(path).is_file()):
            raise UsageError(f"copy: --{kind} {path}: no such {'directory' if kind == 'tokens' else 'file'}")
    named = [Rule("*", kind, path) for kind, path in options if path]
    return [*named, *credential_rules(settings, settings.certificate)]


def _patient(settings: LaneSettings) -> LaneSettings:
    """How long a file may take as a whole is for who looks at the bar to say."""
    return replace(settings, limits=replace(settings.limits, total_s=math.inf), patience_s=None)
