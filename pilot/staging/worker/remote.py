"""What every copy to a storage ends with: a look at what is stored there, and the removal of what is wrong."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from pilot.staging.order import plain
from pilot.staging.worker.tool import Stat
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch, StageError, Unreachable

DELETE_S = 5.0
"""How long the removal of a failed upload may keep silent, in seconds."""

_ASK_AGAIN_S = (1, 2, 4)
_NOTHING_WRITTEN = (FileMissing, Denied, Exists)


def stored(url: str, size: int | None, ask: Callable[[], Stat]) -> Stat:
    """What the storage has of a file that was just sent, ``size`` bytes. Raises Mismatch if it tells nothing.

    Some servers need a moment until they show a new file, or show it whole.
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
    if found == (None, None):
        raise Mismatch(f"{plain(url)}: the server tells neither size nor checksum of what was sent")
    return found


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
