"""KeptFile: a file of ours that is held open, so that nobody can put another one in its place."""

from __future__ import annotations

import os
from contextlib import suppress

from pilot.files.opening import read_at, write_all

_LINE_BYTES = 4096


class KeptFile:
    """An open file: what it is read and written by is its descriptor, whatever becomes of its name."""

    def __init__(self, descriptor: int) -> None:
        """Takes over a descriptor that reads, and appends."""
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def size(self) -> int:
        """Bytes."""
        return os.fstat(self._descriptor).st_size

    def read(self, most_bytes: int, start: int = 0) -> bytes:
        """So many bytes from ``start`` on; less at the end of the file only. Raises OSError."""
        return read_at(self._descriptor, start, most_bytes)

    def append(self, content: bytes) -> None:
        """Write at the end. Raises OSError."""
        write_all(self._descriptor, content)

    def tail(self, most_bytes: int) -> str:
        """The end of it as text; what is not UTF-8 is replaced."""
        try:
            return self.read(most_bytes, max(0, self.size() - most_bytes)).decode("utf-8", "replace")
        except OSError:
            return ""

    def last_line(self) -> str:
        """The last line that is not blank, at most 200 characters; "" if there is none."""
        return last_line(self.tail(_LINE_BYTES))

    def close(self) -> None:
        """Give the descriptor back."""
        with suppress(OSError):  # what a full disk has not taken
            os.close(self._descriptor)


def last_line(text: str) -> str:
    """The last line of a text that is not blank, at most 200 characters; "" if there is none."""
    return next((line.strip()[:200] for line in reversed(text.splitlines()) if line.strip()), "")
