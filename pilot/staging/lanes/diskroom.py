"""DiskRoom: what the inputs of a job may take of the disk together, and how a file of unknown size stops there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from pilot.staging.order import partial_path
from pilot.staging.transfer import Hop, Transfer
from pilot.values.errors import NoSpace


class DiskRoom:
    """Counts what lies on the disk of the files that are moved with it, by looking at them."""

    def __init__(self, pod_bytes: int, told_by: str, job_bytes: int | None = None) -> None:
        """All files together may take ``pod_bytes``, which ``told_by`` says.

        Those whose size nobody knew before may take ``job_bytes``, which the job says; None where it does not.
        """
        self._pod_bytes = pod_bytes
        self._told_by = told_by
        self._job_bytes = job_bytes
        self._known: dict[str, int] = {}
        self._unknown: dict[str, int] = {}

    def check_known(self, transfers: Iterable[Transfer]) -> None:
        """Raise NoSpace before a byte has moved, if the sizes that are known are too much; links take nothing."""
        sizes = [one.size or 0 for one in transfers if not any(way.source.scheme == "file" for way in one.routes)]
        if sum(sizes) > self._pod_bytes:
            raise NoSpace(f"the inputs have {sum(sizes) >> 20} MiB, and {self._pod}")

    def look(self, transfer: Transfer, hop: Hop) -> None:
        """Count what lies there of a file by now. Raises NoSpace where it is too much with the others."""
        held = self._unknown if transfer.size is None else self._known
        held[hop.destination.path] = _size(hop)
        if self.most(hop) < held[hop.destination.path]:
            raise self.error(transfer)

    def most(self, hop: Hop) -> int:
        """How many bytes a file of unknown size may have, as the others are now."""
        others = _sum(self._unknown, hop)
        room = self._pod_bytes - others - _sum(self._known, hop)
        return max(0, room if self._job_bytes is None else min(room, self._job_bytes - others))

    def error(self, transfer: Transfer) -> NoSpace:
        """Why a file had to stop."""
        taken = sum(self._unknown.values()) + sum(self._known.values())
        limit = self._pod
        if self._job_bytes is not None and self._job_bytes < self._pod_bytes - sum(self._known.values()):
            limit = f"the job asks for {self._job_bytes >> 20} MiB of disk: ask for more"
        text = f"{transfer.name}: too large for the disk: {taken >> 20} MiB of inputs have come, and {limit}"
        return NoSpace(text, transfer.direction)

    @property
    def _pod(self) -> str:
        return f"the pod may use {self._pod_bytes >> 20} MiB ({self._told_by}): give it more, or the job less"


def _sum(held: dict[str, int], but: Hop) -> int:
    return sum(size for path, size in held.items() if path != but.destination.path)


def _size(hop: Hop) -> int:
    """Bytes of a file, or of what is there of it so far; none of a link to a file that was there before."""
    target = hop.destination.path
    for path in (partial_path(hop.source, target), target):
        with suppress(OSError):
            found = os.lstat(path)
            return found.st_size if found.st_nlink == 1 else 0
    return 0
