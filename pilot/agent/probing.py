"""How `pilot probe` shows what the pod has: an object for programs, a table for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pilot.agent.saying import say
from pilot.resources.disk import Disk
from pilot.resources.gpu import Gpus
from pilot.resources.probe import NO_LIMIT, Resources
from pilot.values.printable import line

Row = tuple[str, str, str]
"""What, the figure, and where it comes from."""


def as_json(found: Resources) -> dict[str, Any]:
    """The object of ``--json``: None is what is not known, or has no limit; sizes in bytes."""
    return {
        "cores": found.cores,
        "cpus": found.cpus,
        "memory_bytes": found.memory_bytes,
        "disk_bytes": found.disk_bytes,
        "gpus": [gpu.as_json() for gpu in found.gpus.devices],
        "cgroup": {"version": found.cgroup_version},
        "limits_from": dict(found.limits_from),
        "pids": found.pids,
        "disk": None if found.disk is None else _disk_json(found.disk),
        "gpu": {name: getattr(found.gpus, name) for name in ("driver", "cuda", "note", "shared")},
        "cpu": asdict(found.cpu),
        "notes": list(found.notes),
    }


def _disk_json(disk: Disk) -> dict[str, Any]:
    return {
        "path": str(disk.path),
        "free_bytes": disk.free_bytes,
        "free_inodes": disk.free_inodes,
        "budget_bytes": disk.budget_bytes,
        "used_bytes": None if disk.used is None else disk.used.size_bytes,
        "used_inodes": None if disk.used is None else disk.used.entries,
        "count_stopped": None if disk.used is None else disk.used.stopped,
    }


def show(found: Resources) -> None:
    """The table on stdout: with lines on a terminal, else plain columns."""
    if sys.stdout.isatty():
        _show_table(list(rows(found)))
    else:
        _show_columns(list(rows(found)))
    for note in found.notes:
        say(f"note: {note}")


def rows(found: Resources) -> Iterator[Row]:
    """The lines of the table."""
    source = found.limits_from
    yield "cores", f"{found.cores:g} (processors: {found.cpus})", source["cores"]
    yield "memory", size(found.memory_bytes), source["memory"]
    yield "scratch", size(found.disk_bytes), source["disk"]
    if found.disk is not None:
        yield from _disk_rows(found.disk)
    yield "processes", NO_LIMIT if found.pids is None else str(found.pids), source["pids"] if found.pids else ""
    yield from _gpu_rows(found.gpus)
    yield (
        "cgroup",
        f"version {found.cgroup_version}" if found.cgroup_version else "none is seen",
        "/proc/self/mountinfo",
    )
    yield "processor", _processor(found), "/proc/cpuinfo"


def _disk_rows(disk: Disk) -> Iterator[Row]:
    if disk.free_inodes is not None:
        yield "  inodes", f"{disk.free_inodes} free", f"file system of {disk.path}"
    if disk.budget_bytes is not None and disk.used is not None:
        least = "at least " if disk.used.stopped else ""
        used = f"{least}{size(disk.used.size_bytes)} in {disk.used.entries} files and directories"
        yield "  budget", f"{size(disk.budget_bytes)}, used: {used}", str(disk.path)


def _gpu_rows(gpus: Gpus) -> Iterator[Row]:
    for gpu in gpus.devices:
        health = "" if gpu.healthy else f", not healthy: {gpu.why}"
        memory = "memory not told" if gpu.memory_bytes is None else size(gpu.memory_bytes)
        yield "GPU", f"{gpu.name}, {memory}{health}", gpu.uuid
    if gpus.devices:
        yield (
            "  driver",
            f"{gpus.driver}, CUDA {gpus.cuda}" + (f", shared: {gpus.shared}" if gpus.shared else ""),
            "NVML",
        )
    if gpus.note:
        yield "  note" if gpus.devices else "GPUs", gpus.note, ""


def _processor(found: Resources) -> str:
    cpu = found.cpu
    parts = (
        cpu.model,
        cpu.level or cpu.architecture,
        f"{cpu.mhz:.0f} MHz" if cpu.mhz else "",
        f"sockets x cores x threads: {cpu.sockets} x {cpu.cores_per_socket} x {cpu.threads_per_core}"
        if cpu.cores_per_socket
        else "",
    )
    return ", ".join(filter(None, parts)) or "unknown"


def size(count: float) -> str:
    """Bytes for people, in the units that limits are set in: ``256 MiB``, ``23.5 GiB``."""
    power = min(4, max(0, int(count).bit_length() - 1) // 10)
    shown = count / (1 << 10 * power)
    return f"{shown:.{0 if shown == int(shown) else 1}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _show_table(rows: list[Row]) -> None:
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("", "this pod has", "where it comes from", header_style="bold")
    for row in rows:
        table.add_row(*(Text(line(cell)) for cell in row))
    Console().print(table)


def _show_columns(rows: list[Row]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for what, figure, source in (map(line, row) for row in rows):
        say(f"{what:<{widths[0]}}  {figure:<{widths[1]}}  {source}".rstrip())
