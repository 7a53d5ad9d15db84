"""What the server is told of the node: its processor, memory and disk, and its GPUs, in the server's strict types.

panda-protocol.md 9.2 and 9.3: whole MiB and GB, the clock as a float, one call per GPU model; what is not known
is left out. The record is the node's, and the first one stays: what this pod may have of it is not in there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

from pilot.resources.gpu import Gpus
from pilot.resources.probe import Resources
from pilot.runner.pod import Pod

_LONGEST = 128  # characters of a text: a longer one loses the call, without a word


def node_map(pod: Pod, resources: Resources) -> dict[str, Any]:
    """The fields of ``update_worker_node``."""
    cpu, queue = resources.cpu, pod.site.queue
    return _told(
        {
            "site": queue.site,
            "panda_queue": queue.name,
            "host_name": pod.settings.node,
            "cpu_model": cpu.model,
            "n_logical_cpus": cpu.n_logical,
            "n_sockets": cpu.sockets,
            "cores_per_socket": cpu.cores_per_socket,
            "threads_per_core": cpu.threads_per_core,
            "cpu_architecture": cpu.architecture or None,
            "cpu_architecture_level": cpu.level.replace("_", "-") or None,
            "clock_speed": None if cpu.mhz is None else float(cpu.mhz),
            "total_memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
            "total_local_disk": round(shutil.disk_usage(pod.work).total / 1e9),
        }
    )


def gpu_maps(pod: Pod, gpus: Gpus) -> list[dict[str, Any]]:
    """The fields of ``update_worker_node_gpu``, one object per model."""
    models = sorted({gpu.name for gpu in gpus.devices})
    place = {"site": pod.site.queue.site, "host_name": pod.settings.node}
    return [_told({**place, **_model(gpus, model)}) for model in models]


def architecture(gpus: Gpus) -> dict[str, Any] | None:
    """``target_architecture`` of ``acquire_jobs`` (corrections A7); None without a GPU."""
    models = sorted({gpu.name for gpu in gpus.devices if gpu.healthy})
    return {"gpus": [_told(_model(gpus, model)) for model in models]} if models else None


def _model(gpus: Gpus, model: str) -> dict[str, Any]:
    devices = [gpu for gpu in gpus.devices if gpu.name == model and gpu.healthy]
    return {
        "vendor": "NVIDIA",
        "model": model,
        "count": len(devices),
        "vram": max((gpu.memory_bytes >> 20 for gpu in devices if gpu.memory_bytes is not None), default=None),
        "architecture": next((gpu.architecture for gpu in devices if gpu.architecture), None),
        "framework": "CUDA" if gpus.cuda else None,
        "framework_version": gpus.cuda or None,
        "driver_version": gpus.driver or None,
    }


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is known, in texts that the server takes."""
    known = {name: value for name, value in fields.items() if value is not None}
    return {name: value[:_LONGEST] if isinstance(value, str) else value for name, value in known.items()}
