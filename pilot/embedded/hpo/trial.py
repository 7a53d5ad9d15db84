"""A point as samplers and pruners see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Trial:
    """``loss`` is None while nobody has told it, ``steps`` has the intermediate ones by step."""

    parameters: Mapping[str, Any]
    loss: float | None
    pruned: bool = False
    steps: Mapping[int, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether it was evaluated to its end."""
        return self.loss is not None and not self.pruned
