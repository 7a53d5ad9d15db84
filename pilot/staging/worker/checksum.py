"""Digest: size and checksums of a stream, in the one pass in which it is moved anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilot.staging.order import Done, Order, plain
from pilot.values.errors import Md5Mismatch, Mismatch

if TYPE_CHECKING:
    import hashlib

try:
    from zlib_ng.zlib_ng import adler32  # 5 times as fast as zlib's
except ImportError:
    from zlib import adler32


class Digest:
    """Size and adler32 of what went by; md5 only where it is asked for, since it costs 20 times as much."""

    def __init__(self, *, md5: bool = False) -> None:
        self._with_md5 = md5
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self.size = 0
        self._adler32 = 1
        self._md5 = _new_md5() if self._with_md5 else None

    @classmethod
    def of(cls, order: Order) -> Digest:
        """One that can tell the checksum that the catalogue has."""
        return cls(md5=order.checksum is not None and order.checksum[0] == "md5")

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.size += len(chunk)
        self._adler32 = adler32(chunk, self._adler32)
        if self._md5 is not None:
            self._md5.update(chunk)

    @property
    def adler32(self) -> str:
        """8 hex digits in lower case."""
        return f"{self._adler32:08x}"

    @property
    def md5(self) -> str | None:
        """32 hex digits in lower case; None if it was not asked for."""
        return None if self._md5 is None else self._md5.hexdigest()

    def check(self, order: Order, where: str) -> Done:
        """Compare with the catalogue; Mismatch or Md5Mismatch if it says otherwise."""
        if order.size is not None and order.size != self.size:
            raise Mismatch(f"{plain(where)}: it has {self.size} bytes, the catalogue says {order.size}")
        if order.checksum is None:
            return Done(self.size, self.adler32, "size")
        kind, expected = order.checksum
        found = self.md5 if kind == "md5" else self.adler32
        if found != expected:
            error = Md5Mismatch if kind == "md5" else Mismatch
            raise error(f"{plain(where)}: its {kind} is {found}, the catalogue says {expected}")
        return Done(self.size, self.adler32, "checksum")

    def agree(self, where: str, size: int | None, told: str | None) -> Done:
        """Compare with what the other side says of its file; Mismatch if it says otherwise."""
        if size is not None and size != self.size:
            raise Mismatch(f"{plain(where)}: it has {size} bytes there, {self.size} were sent")
        if told is not None and told != self.adler32:
            raise Mismatch(f"{plain(where)}: its adler32 is {told} there, {self.adler32} was sent")
        return Done(self.size, self.adler32, "size" if told is None else "checksum")


def _new_md5() -> hashlib._Hash:
    import hashlib  # noqa: PLC0415 - loads OpenSSL (10 ms), and hardly any file needs it

    return hashlib.md5(usedforsecurity=False)
