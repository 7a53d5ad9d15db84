"""What kind of processor this is: for the fields of an update that normalise CPU time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# the feature flags that each level adds (x86-64 psABI, "Micro-Architecture Levels"), as the kernel writes them
_LEVELS = (
    ("x86_64-v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("x86_64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ("x86_64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """``model`` as the kernel names it, ``level`` such as x86_64-v3; "" where they are not known."""

    model: str = ""
    level: str = ""
    avx2: bool = False

    @property
    def unit(self) -> str:
        """The unit of CPU time as PanDA writes it: ``s+<model>+AVX2`` (panda-protocol.md 5.1)."""
        return "+".join(filter(None, ("s", self.model, "AVX2" if self.avx2 else "")))


def read_cpu(sysroot: Path = Path("/")) -> Cpu:
    """The first processor of /proc/cpuinfo; nothing is known of other architectures than x86-64."""
    try:
        text = (sysroot / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return Cpu()
    facts: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        name, colon, value = line.partition(":")
        if colon:
            facts[name.strip()] = " ".join(value.split())
    flags = set(facts.get("flags", "").split())
    return Cpu(facts.get("model name", ""), _level(flags), "avx2" in flags)


def _level(flags: set[str]) -> str:
    level = "x86_64-v1" if "lm" in flags else ""
    for name, needed in _LEVELS:
        if not level or not needed <= flags:
            break
        level = name
    return level
