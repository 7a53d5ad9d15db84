"""What a payload uses, as it was seen last."""

from __future__ import annotations

from dataclasses import dataclass

_NEARLY = 0.85


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the pod that the kernel cannot take back, in bytes, and its limit.

    ``oom_kills`` counts what the kernel has killed for memory since the payload began.
    """

    used_bytes: int
    limit_bytes: int
    oom_kills: int = 0

    @property
    def nearly_full(self) -> bool:
        """Whether the next step may well have gone beyond the limit."""
        return self.used_bytes >= _NEARLY * self.limit_bytes

    def __str__(self) -> str:
        """As a message says it."""
        return f"{self.used_bytes >> 20} of {self.limit_bytes >> 20} MiB"
