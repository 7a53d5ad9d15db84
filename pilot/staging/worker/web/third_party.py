"""A copy that one web server makes from or to another: HTTP-TPC, which is COPY with its progress as the answer.

The side that is asked gets its own token as always, and the other side's in a header that it shall pass on. It
answers 201 before it has begun: only the last line tells how it ended, and even that is verified by `copy.py`.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from pilot.staging.order import Around, Order, Report, Side, plain
from pilot.staging.worker.web import calls, webdav
from pilot.values.errors import (
    Denied,
    FileMissing,
    NoSpace,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)

_PIECE = 1 << 16
_LONGEST_LINE = 1 << 16
_UNKNOWN = (400, 405, 501)
_NO_PARENT = (400, 404, 409)
_EXPLANATION = 1000
_GOOD_END = re.compile(r"success\b", re.IGNORECASE)
_BAD_END = re.compile(r"(?:failure\b|(?:failed|aborted|error)\s*(?::|$))[:\s]*(.*)", re.IGNORECASE)
_MARK = re.compile(r"(Stripe Index|Stripe Bytes Transferred)\s*:\s*(\d{1,18})", re.IGNORECASE)

_TOKEN = re.compile(r"(?i)\bbearer\s+\S+|\beyJ[\w-]+\.[\w.-]+")
_STATUS = re.compile(r"(?i)(?:status code|HTTP(?:/[\d.]+)?(?: status)?(?: code)?)[:=]?\s*(\d{3})\b")
_BY_STATUS: dict[int, type[StageError]] = {
    401: Denied,
    403: Denied,
    404: FileMissing,
    429: Unreachable,
    502: Unreachable,
    503: Unreachable,
    504: Unreachable,
    507: NoSpace,
}
_BY_WORDS: tuple[tuple[type[StageError], str], ...] = (
    (NoSpace, r"no space left|disk (is )?full|quota|insufficient (storage|space)"),
    (Stalled, r"timed?[- ]?out|time-?out|stalled|too slow"),
    (Unreachable, r"(couldn.t|could not|failed to|cannot) (connect|resolve)|connection (was )?(refused|reset|closed)"),
    (Denied, r"permission denied|not authori[sz]ed|unauthori[sz]ed"),
    (FileMissing, r"no such file"),
)


def copy(order: Order, report: Report, around: Around) -> None:
    """Have one side copy; `Order.third_party` says which. Raises a StageError unless it says that it has.

    The contact is held until the end: a server drops the copy when the one who asked for it goes away.
    """
    asked, other, name = _roles(order)
    if other.token and calls.address(other.url).startswith("https:") and calls.address(asked.url).startswith("http:"):
        raise TransferFailed(f"{plain(asked.url)}: a token would go there without encryption")
    headers = {name: calls.address(other.url), "Overwrite": "T" if order.overwrite else "F", "Credential": "none"}
    private = {"TransferHeaderAuthorization": calls.bearer(other.token)} if other.token else {}
    with _answer(order, asked, around, headers, private) as response:
        if response.status == 204 or response.headers.get("Content-Length") == "0":
            return  # it was quick, and copied before it answered
        with calls.errors(asked.url, "COPY"):
            text = _ended(_lines(response, asked), order, report, around)
    if text is None:
        raise Unreachable(f"{plain(asked.url)}: the copy broke off, and it has not told how it ended")
    if text:
        raise _failure(text, order)


def _roles(order: Order) -> tuple[Side, Side, str]:
    """Who is asked, who is the other, and the header that names the other."""
    if order.third_party == "pull":
        return order.destination, order.source, "Source"
    return order.source, order.destination, "Destination"


@contextlib.contextmanager
def _answer(
    order: Order, asked: Side, around: Around, headers: dict[str, str], private: dict[str, str]
) -> Iterator[calls.Response]:
    response = calls.send("COPY", asked, around, headers=headers, private=private)
    no_parent = _NO_PARENT if order.third_party == "pull" else (409,)
    if response.status in no_parent and webdav.make_parents(order.destination, around):
        response.close()
        response = calls.send("COPY", asked, around, headers=headers, private=private)
    try:
        if (error := _refusal(response, order, asked)) is not None:
            raise error
        yield response
    finally:
        response.close()


def _refusal(response: calls.Response, order: Order, asked: Side) -> StageError | None:
    """Why it does not begin: xrootd says 400 for most reasons, and explains it in the body."""
    error = calls.complaint(response, asked.url, "COPY")
    if error is None or response.status not in _UNKNOWN:
        return error
    with calls.errors(asked.url, "COPY"):
        said = response.read(_EXPLANATION).decode("utf-8", "replace")
    if type(explained := _failure(said, order)) is not TransferFailed:
        return explained
    return TransferFailed(f"{error}: this server makes no third-party copies, or not this one {_clean(said, order)}")


def _lines(response: calls.Response, asked: Side) -> Iterator[str]:
    """The answer's lines, each when it comes."""
    rest = b""
    while piece := response.read1(_PIECE):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode("utf-8", "replace").strip() for line in lines)
        if len(rest) > _LONGEST_LINE:
            raise TransferFailed(f"{plain(asked.url)}: its answer to COPY has no lines")
    yield rest.decode("utf-8", "replace").strip()


def _ended(lines: Iterator[str], order: Order, report: Report, around: Around) -> str | None:
    """The text of a failure, empty for success; None where the lines end without either.

    Raises Stalled where they go on, and the bytes do not.
    """
    stripes: dict[int, int] = {}
    stripe, growth = 0, _Growth(order, report, around)
    for line in lines:
        if _GOOD_END.match(line):
            return ""
        if (end := _BAD_END.match(line)) is not None:
            return end[1] or "it gives no reason"
        if (mark := _MARK.match(line)) is not None:
            value = int(mark[2])
            if mark[1].lower() == "stripe index":
                stripe = value
            else:
                stripes[stripe] = value
        growth.look(sum(stripes.values()))
    return None


class _Growth:
    """Whether the copy gets on: markers come from a server that has not moved a byte as well."""

    def __init__(self, order: Order, report: Report, around: Around) -> None:
        self._order = order
        self._report = report
        self._around = around
        self._bytes = 0
        self._limit_s = around.idle_s
        self._since = time.monotonic()

    def look(self, total: int) -> None:
        """So many bytes are told by now. Raises Stalled."""
        now = time.monotonic()
        if total > self._bytes:
            self._bytes, self._since = total, now
            self._report.moved(total)
            size = self._order.size
            if size is not None and total >= size:  # some servers read it all again before they say so
                self._limit_s = self._around.verify_s(size)
                self._report.verifying(size)
        elif now - self._since > self._limit_s:
            raise Stalled(
                f"{plain(self._order.destination.url)}: the third-party copy has stood still at "
                f"{self._bytes} bytes for {self._limit_s:g} s"
            )


def _failure(text: str, order: Order) -> StageError:
    """What a server says has gone wrong."""
    text = _clean(text, order)
    status = _STATUS.search(text)
    kind = _BY_STATUS.get(int(status[1])) if status else None
    words = (kind for kind, words in _BY_WORDS if re.search(words, text, re.IGNORECASE))
    way = f"{plain(order.source.url)} to {plain(order.destination.url)}"
    return (kind or next(words, TransferFailed))(f"third-party copy of {way}: {text}")


def _clean(text: str, order: Order) -> str:
    """What a server says, which may quote what was sent to it."""
    for token in filter(None, (order.source.token, order.destination.token)):
        text = text.replace(token, "...")
    return plain(_TOKEN.sub("...", text))
