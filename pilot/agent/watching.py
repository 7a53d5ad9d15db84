"""`pilot probe --watch`: what is used of the pod at present, again and again, until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pilot.agent.probing import size
from pilot.agent.saying import say
from pilot.resources.cgroup import read_cpu_seconds
from pilot.resources.given import Given
from pilot.resources.gpu import Gpus, GpuSample, GpuSampler
from pilot.resources.groups import read_text
from pilot.resources.memory import MemoryGauge
from pilot.resources.probe import Resources, probe
from pilot.resources.visible import Visible

Row = tuple[str, str]
"""What, and how much of it is used."""

_NO_GPUS = Visible(nvidia="none")  # the sampler has them: to look anew would start a process each time


class Usage:
    """Looks at the pod again at each `rows`; what is used is that of our control group, else the node's."""

    def __init__(self, found: Resources, work: Path, given: Given, visible: Visible) -> None:
        self._gpus, self._work, self._given = found.gpus, work, given
        self._last = time.monotonic(), read_cpu_seconds()
        self._sampler = GpuSampler(visible, [gpu.uuid for gpu in found.gpus.devices if gpu.uuid])

    def rows(self) -> Iterator[Row]:
        """The present figures."""
        found = probe(self._work, given=self._given, visible=_NO_GPUS)
        yield "CPU", f"{self._cores()} of {found.cores:g} cores"
        yield "memory", _memory(found)
        yield "scratch", _scratch(found)
        for sample in self._sampler.sample():
            yield sample.uuid, gpu_in_use(sample, self._gpus)

    def close(self) -> None:
        """End the process that asks for GPUs."""
        self._sampler.close()

    def _cores(self) -> str:
        """Cores in use since the last look, as a figure; or that it is not known."""
        (then, before), now = self._last, time.monotonic()
        self._last = now, read_cpu_seconds()
        if before is None or self._last[1] is None:
            return "?"
        return f"{(self._last[1] - before) / max(now - then, 1e-3):.2f}"


def watch(usage: Usage, every_s: float) -> None:
    """Show it every ``every_s`` seconds: in place on a terminal, else one line each time. Ends with Ctrl-C."""
    try:
        with closing(usage):
            time.sleep(min(every_s, 0.5))  # CPU use is a difference
            if sys.stdout.isatty():
                _watch_live(usage, every_s)
            while True:
                say(f"{time.strftime('%H:%M:%S')}  " + "  ".join(" ".join(row) for row in usage.rows()))
                time.sleep(every_s)
    except KeyboardInterrupt:
        return


def _watch_live(usage: Usage, every_s: float) -> None:
    from rich.live import Live  # noqa: PLC0415 - rich is slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    with Live(auto_refresh=False) as live:
        while True:
            table = Table("", f"in use at {time.strftime('%H:%M:%S')}", header_style="bold")
            for row in usage.rows():
                table.add_row(*map(Text, row))
            live.update(table, refresh=True)
            time.sleep(every_s)


def _memory(found: Resources) -> str:
    gauge = MemoryGauge.find()
    now = gauge.read() if gauge else None
    if now is not None:
        return f"{size(now.used_bytes)} of {size(now.limit_bytes)}"
    for line in read_text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) << 10
            return f"{size(max(0, found.memory_bytes - available))} of {size(found.memory_bytes)}, by the whole node"
    return f"? of {size(found.memory_bytes)}"


def _scratch(found: Resources) -> str:
    disk = found.disk
    if disk is None or disk.used is None:
        return f"{size(found.disk_bytes)} left"
    return f"{size(disk.used.size_bytes)} used, {size(found.disk_bytes)} left"


def gpu_in_use(sample: GpuSample, gpus: Gpus) -> str:
    """Utilisation in percent and memory of one device, or why there is none."""
    total = next((gpu.memory_bytes for gpu in gpus.devices if gpu.uuid == sample.uuid), None)
    if sample.used_bytes is None and sample.utilisation is None:
        return sample.why or "?"
    busy = "?" if sample.utilisation is None else f"{sample.utilisation:.0f}"
    held, whole = ("?" if count is None else size(count) for count in (sample.used_bytes, total))
    memory = "memory not told" if (held, whole) == ("?", "?") else f"{held} of {whole}"
    return f"{busy} %, {memory}" + (f", lost: {sample.why}" if sample.lost else "")
