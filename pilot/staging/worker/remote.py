"""What every copy to a storage ends with: a look at what is stored there, and the removal of what is wrong.

The look is a question that a storage may refuse (a token that may only write, a URL that is signed for PUT). Then what
it has answered to the copy itself counts, and it is said that nobody has looked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from pilot.staging.order import Report, plain
from pilot.staging.worker.tool import NOTHING_KNOWN, Stat
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch, StageError, TransferFailed, Unreachable

DELETE_S = 5.0
"""How long the removal of a failed upload may keep silent, in seconds."""

_ASK_AGAIN_S = (1, 2, 4)
_NOTHING_WRITTEN = (FileMissing, Denied, Exists)


def stored(url: str, size: int | None, ask: Callable[[], Stat]) -> Stat:
    """What the storage has of a file that was just sent, ``size`` bytes.

    Raises Mismatch if it has none, Denied or TransferFailed if it does not tell. Some servers need a moment until they
    show a new file, or show it whole.
    """
    for wait_s in _ASK_AGAIN_S:
        with contextlib.suppress(FileMissing, Unreachable):
            found = ask()
            if found.size != 0 or not size:
                return _told(url, found)
        time.sleep(wait_s)
    try:
        return _told(url, ask())
    except FileMissing:
        raise Mismatch(f"{plain(url)}: it is not there after its upload") from None


def _told(url: str, found: Stat) -> Stat:
    if found == NOTHING_KNOWN:
        raise TransferFailed(f"{plain(url)}: the server tells neither size nor checksum of what was sent")
    return found


def looked_at(url: str, size: int | None, ask: Callable[[], Stat], report: Report) -> Stat:
    """The same; `NOTHING_KNOWN`, with a word to people, where the storage lets nobody look. Raises Mismatch, ..."""
    try:
        return stored(url, size, ask)
    except (Denied, TransferFailed) as error:
        why = plain(str(error)).removeprefix(f"{plain(url)}: ")
        report.note("stored, and not looked at: the storage's own answer counts", url=plain(url), why=why)
        return NOTHING_KNOWN


def removal(look: Callable[[], Stat], delete: Callable[[], None], old: Stat | None) -> Callable[[], None]:
    """What removes a failed copy. An ``old`` file that may still be in its place stays."""

    def remove() -> None:
        if old is None or _is_another(old, look):
            delete()

    return remove


def _is_another(old: Stat, look: Callable[[], Stat]) -> bool:
    """Whether what is there now is surely not the old file."""
    try:
        now = look()
    except StageError:
        return False
    return any(None not in pair and pair[0] != pair[1] for pair in zip(old, now, strict=True))


@contextlib.contextmanager
def deleted_on_error(
    delete: Callable[[], None], spared: tuple[type[StageError], ...] = _NOTHING_WRITTEN
) -> Iterator[None]:
    """Remove the target of a failed copy, unless the error says that the storage had refused to begin it."""
    try:
        yield
    except BaseException as error:  # also when nobody is left to tell: half a file is no better then
        if not isinstance(error, spared):
            with contextlib.suppress(StageError):
                delete()
        raise
