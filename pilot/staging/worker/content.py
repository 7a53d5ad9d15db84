"""The bytes of a copy that goes through this process."""

from __future__ import annotations

from collections.abc import Iterator

from pilot.staging.order import Order, Report, plain
from pilot.staging.worker.checksum import Digest
from pilot.staging.worker.tool import Source
from pilot.values.errors import Mismatch, TransferFailed


class Bytes:
    """The source's bytes on their way to the target, counted and summed up as they go by.

    ``clear``: where half a file may be that is ours to be removed; "" for nowhere.
    """

    def __init__(self, source: Source, order: Order, report: Report, clear: str = "") -> None:
        self._source = source
        self._clear = clear
        self._order = order
        self._report = report
        self._begun = False
        self.digest = Digest.of(order)

    @property
    def url(self) -> str:
        """Where they come from."""
        return self._order.source.url

    @property
    def size(self) -> int | None:
        """As announced, or as the catalogue says."""
        # The catalogue's where the source announces none: an upload of unknown length is one that xrootd 5.5 spoils.
        return self._source.size if self._source.size is not None else self._order.size

    def check_announced(self) -> None:
        """Raise Mismatch before a byte has moved, if the source says another size than the catalogue."""
        announced, known = self._source.size, self._order.size
        if announced is not None and known is not None and announced != known:
            raise Mismatch(f"{self._name}: it has {announced} bytes, the catalogue says {known}")

    def __iter__(self) -> Iterator[bytes]:
        if self._begun and not self._source.again:
            raise TransferFailed(f"{self._name}: the target wants it a second time, and it can be read only once")
        self._begun = True
        self.digest.reset()
        if self._order.destination.scheme != "file":
            self._report.writing(self._clear)
        most = self._order.size if self._order.size is not None else self._source.size
        for chunk in self._source.chunks:
            self.digest.update(chunk)
            if most is not None and self.digest.size > most:  # at once, not when the disk is full
                raise Mismatch(f"{self._name}: it has more than the {most} bytes that were told")
            yield chunk
            self._report.moved(self.digest.size)
        if self._source.size not in (None, self.digest.size):
            raise Mismatch(f"{self._name}: {self.digest.size} of {self._source.size} announced bytes came")
        if self._order.size not in (None, self.digest.size):  # now: a target that was told more waits for it
            raise Mismatch(f"{self._name}: it has {self.digest.size} bytes, the catalogue says {self._order.size}")

    @property
    def _name(self) -> str:
        return plain(self._order.source.url)
