"""What a pilot costs while its payload sleeps (promise P5): read from /proc, from outside."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

SETTLE_S = 8.0  # the lane leaves after five seconds
LOOK_S = 45.0
TICKS = os.sysconf("SC_CLK_TCK")


def sleeping(pid: int) -> dict[str, float]:
    """Shares and rates over `LOOK_S` seconds of the pilot ``pid``, whose payload has just begun to sleep."""
    time.sleep(SETTLE_S)
    process = psutil.Process(pid)
    seen = {child.pid for child in process.children(recursive=True)}
    first = len(seen)
    before, began = _counts(pid), time.monotonic()
    while time.monotonic() - began < LOOK_S:
        time.sleep(1)
        seen |= {child.pid for child in process.children(recursive=True)}
    seconds = time.monotonic() - began
    ticks, wakes = (after - then for after, then in zip(_counts(pid), before, strict=True))
    return {
        "while a payload sleeps: share of a core, %": 100 * ticks / TICKS / seconds,
        "while a payload sleeps: RSS of the pilot, MiB": process.memory_info().rss / 2**20,
        "while a payload sleeps: threads": process.num_threads(),
        "while a payload sleeps: processes started": len(seen) - first,
        "while a payload sleeps: wake-ups per second": wakes / seconds,
    }


def _counts(pid: int) -> tuple[int, int]:
    """Ticks of CPU time, and voluntary context switches, of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    wakes = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        wakes += int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return int(fields[11]) + int(fields[12]), wakes
