"""What every upload to a server ends with: a look at what is stored, and the removal of what is wrong."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from pilot.staging.checksum import Digest
from pilot.staging.order import Done, plain
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch, StageError, Unreachable

DELETE_S = 5.0
"""How long the removal of a failed upload may keep silent, in seconds."""

_ASK_AGAIN_S = (1, 2, 4)
_NOTHING_WRITTEN = (FileMissing, Denied, Exists)


def verify(url: str, digest: Digest, ask: Callable[[], tuple[int | None, str | None]]) -> Done:
    """Compare with the size and the adler32 (None: not told) that ``ask`` gets from the server.

    Some servers need a moment until they show a new file, or show it whole.
    """
    for wait_s in _ASK_AGAIN_S:
        with contextlib.suppress(FileMissing, Unreachable):
            size, told = ask()
            if size != 0 or not digest.size:
                return _compare(url, digest, size, told)
        time.sleep(wait_s)
    try:
        size, told = ask()
    except FileMissing:
        raise Mismatch(f"{plain(url)}: it is not there after its upload") from None
    return _compare(url, digest, size, told)


def _compare(url: str, digest: Digest, size: int | None, told: str | None) -> Done:
    if size is None and told is None:
        raise Mismatch(f"{plain(url)}: the server tells neither size nor checksum of what was sent")
    return digest.agree(url, size, told)


@contextlib.contextmanager
def deleted_on_error(delete: Callable[[], None]) -> Iterator[None]:
    """Remove the target of a failed upload, unless the server had refused to begin it."""
    try:
        yield
    except StageError as error:
        if not isinstance(error, _NOTHING_WRITTEN):
            with contextlib.suppress(StageError):
                delete()
        raise
