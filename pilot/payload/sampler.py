"""The sampler: what a payload's processes use, read from /proc and from their control group.

proc(5). CPU time comes from the payload's own control group where it has one, which counts whatever was ever
in it. Else it is the sum over the living, each with the children that it has waited for, over those that have ended
and that nobody has waited for yet (at the last look the payload's first process is one), and over the orphans that
we have buried. What children use whose parent ignores SIGCHLD, the kernel adds to nobody.

Memory is the sum of the proportional set sizes of the living (PSS: a page that n processes share counts 1/n for
each), or of the resident ones where there are too many for that. Bytes read and written are those that went to
storage, but for those of buried orphans.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from pilot.values.usage import Sample

_FIRST_S = 0.25  # the second look comes so soon, the later ones take twice as long each, up to:
_USUAL_S = 10.0
_LONG_S = 60.0  # after an hour
_SHARE = 400.0  # a look that takes a second is taken every 400 s: a quarter percent of a core, half of promise P5
_FREE_S = 0.05  # so much may be spent above that share, as at the beginning: a short payload has its peak early
_MOST_PSS = 64  # smaps_rollup walks page tables: 0.1 to 5 ms for each process
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sampler:
    """Looks at one payload. ``interval_s`` says after how long to look again."""

    def __init__(self, living: Callable[[], Collection[int]], buried_s: Callable[[], float], group: str) -> None:
        """Watch a payload that has just begun.

        Args:
            living: the pids of its processes now.
            buried_s: CPU time of its orphans that have ended and were collected, in seconds.
            group: the directory of its control group, "" without one.
        """
        self._living = living
        self._buried_s = buried_s
        self._stat = Path(group) / "cpu.stat" if group else None
        self._began = self._last = time.monotonic()
        self._credit_s = _FREE_S
        self._seen: dict[int, int] = {}
        self._add_up()
        self.interval_s = _FIRST_S

    def look(self) -> Sample:
        """One sample; processes that end meanwhile count as far as they could be read."""
        began = time.monotonic()
        total, living = self._add_up()
        now = time.monotonic()
        self._plan(began, now)
        return Sample(
            after_s=round(began - self._began, 3),
            processes=living,
            cpu_s=self._cpu_s(total.cpu_s),
            vmem_bytes=total.vmem,
            rss_bytes=total.rss,
            pss_bytes=total.pss if living <= _MOST_PSS else None,
            swap_bytes=total.swap,
            read_bytes=total.read,
            written_bytes=total.written,
        )

    def _plan(self, began: float, now: float) -> None:
        """Twice the interval, unless that is longer than usual, or too little for what looks have cost."""
        longest = _USUAL_S if now - self._began < 3600 else _LONG_S
        self._credit_s = min(_FREE_S, self._credit_s + (began - self._last) / _SHARE) - (now - began)
        self._last = began
        self.interval_s = max(min(2 * self.interval_s, longest), -_SHARE * self._credit_s)

    def _add_up(self) -> tuple[_Sum, int]:
        """The figures of all, and how many of them live.

        One that was seen and does not live any more may still be there to be waited for. Parents come first, so
        that none is counted with its parent and by itself.
        """
        living = dict.fromkeys(self._living())
        ended = {pid: started for pid, started in self._seen.items() if pid not in living}
        total, seen = _Sum(), {}
        for pid in (*living, *ended):
            with contextlib.suppress(OSError, ValueError, IndexError):
                seen[pid] = total.add(pid, ended.get(pid), with_pss=len(living) <= _MOST_PSS)
        self._seen = seen
        return total, len(living)

    def _cpu_s(self, living_s: float) -> float:
        """The control group's account, or else the sum."""
        if self._stat is not None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(self._stat.read_text().split("usage_usec", 1)[1].split()[0]) / 1e6
        return living_s + self._buried_s()


class _Sum:
    """Figures of several processes."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.vmem = self.rss = self.pss = self.swap = self.read = self.written = 0

    def add(self, pid: int, started: int | None, *, with_pss: bool) -> int:
        """Add one; when it started. OSError, ValueError or IndexError when it is gone, or ``started`` another time."""
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        since = int(fields[19])
        if started not in (None, since):
            raise ValueError(f"{pid} is somebody else by now")
        self.cpu_s += sum(int(ticks) for ticks in fields[11:15]) * _TICK_S
        rss = int(fields[21]) * _PAGE
        self.vmem += int(fields[20])
        self.rss += rss
        if with_pss:
            self._add_shared(pid, rss)
        with contextlib.suppress(OSError):  # of another user's program it is not ours to see
            moved = _table(_read(f"/proc/{pid}/io"))
            self.read += moved.get(b"read_bytes:", 0)
            self.written += moved.get(b"write_bytes:", 0)
        return since

    def _add_shared(self, pid: int, rss: int) -> None:
        """PSS and swap; resident memory where the kernel does not tell them (before 4.14, or of other users)."""
        memory: dict[bytes, int] = {}
        with contextlib.suppress(OSError):
            memory = _table(_read(f"/proc/{pid}/smaps_rollup"))
        self.pss += memory.get(b"Pss:", rss >> 10) << 10
        self.swap += memory.get(b"Swap:", 0) << 10


def _read(path: str) -> bytes:
    """A small file of /proc; at a third of what pathlib takes for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 14)
    finally:
        os.close(descriptor)


def _table(text: bytes) -> dict[bytes, int]:
    """Lines of a name and a number."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
