"""Limits that come with the environment (the pod's downward API, Harvester) or with the settings.

Without a limit of the container the downward API gives what the node has for all pods, so a figure of it may be
larger than what the kernel holds us to; the smaller one wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from pilot.resources.cgroup import CgroupLimits
from pilot.values.settings import Settings

_MIB = 1 << 20
_ROUNDED_CORES = 0.0011  # the downward API rounds up to the divisor that the manifest asks for: 1m, 1Mi


@dataclass(frozen=True, slots=True)
class Given:
    """Each a figure and what says so, or None: ``cores``, and bytes of memory and of scratch."""

    cores: tuple[float, str] | None = None
    memory_bytes: tuple[float, str] | None = None
    disk_bytes: tuple[float, str] | None = None

    @classmethod
    def of(cls, settings: Settings, origins: Mapping[str, str] | None = None) -> Self:
        """From the settings; ``origins`` says which variable each came from."""

        def figure(name: str, factor: float) -> tuple[float, str] | None:
            value = getattr(settings, name) * factor
            origin = (origins or {}).get(name, "flag")
            return (value, f"setting {name}" if origin in {"default", "file", "flag"} else origin) if value else None

        return cls(figure("cpu_limit", 0.001), figure("memory_limit", _MIB), figure("disk_limit", _MIB))

    def unless_stated(self, limits: CgroupLimits) -> Self:
        """Without what the control group says just as well.

        To be taken when the pilot starts: the control group follows a pod that is resized in place, a variable
        does not, and would hold a grown pod down.
        """
        cores, memory = self.cores, self.memory_bytes
        if cores and limits.quota is not None and 0 <= cores[0] - limits.quota < _ROUNDED_CORES:
            cores = None
        if memory and limits.memory_bytes is not None and 0 <= memory[0] - limits.memory_bytes < _MIB:
            memory = None
        return replace(self, cores=cores, memory_bytes=memory)


NOTHING = Given()
