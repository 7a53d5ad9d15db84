"""The search space of a study file, in hpogrid's words (hpo-contract.md 5.2)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pilot.values.checking import a_real, an_object, only_known

METHODS = ("categorical", "uniform", "uniformint", "quniform", "quniformint", "loguniform", "qloguniform",
           "normal", "qnormal", "lognormal", "qlognormal")  # fmt: skip
_LARGEST_GRID = 100_000


@dataclass(frozen=True, slots=True)
class Dimension:
    """One parameter. ``options`` are those of its method: low, high, q, mu, sigma, categories."""

    method: str
    options: Mapping[str, Any]

    def complaint(self, value: object) -> str:
        """Why a value cannot be this parameter; "" if it can."""
        if self.method == "categorical":
            return "" if any(_same(value, one) for one in self.options["categories"]) else "is none of its categories"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return "is no number"
        if self.method.endswith("int") and value != int(value):
            return "is no whole number"
        if "log" in self.method and value < 0:
            return "is below 0"
        low, high = (self.options.get(name, value) for name in ("low", "high"))
        return "" if low <= value <= high else f"is not between {low:g} and {high:g}"

    @property
    def grid_size(self) -> int:
        """How many values it has; 0: they cannot be counted."""
        if self.method == "categorical":
            return len(self.options["categories"])
        if self.method not in ("uniformint", "quniform", "quniformint"):
            return 0
        low, high = float(self.options["low"]), float(self.options["high"])
        return math.floor((high - low) / float(self.options.get("q", 1)) + 1e-9) + 1


def parse_space(raw: object) -> Mapping[str, Dimension]:
    """Check a search space. Raises ValueError with one line that names the field."""
    given = an_object("search_space", raw)
    if not given:
        raise ValueError("search_space: is empty")
    return MappingProxyType({str(name): _dimension(f"search_space.{name}", one) for name, one in given.items()})


def check_grid(space: Mapping[str, Dimension]) -> None:
    """Raise ValueError for a space that has no grid, or a too large one."""
    for name, one in space.items():
        if not one.grid_size:
            raise ValueError(f"search_space.{name}: {one.method} has no grid; use categorical, uniformint or quniform")
    if (size := math.prod(one.grid_size for one in space.values())) > _LARGEST_GRID:
        raise ValueError(f"search_space: its grid has {size} points, and may have {_LARGEST_GRID}; use tpe or random")


def _dimension(where: str, raw: object) -> Dimension:
    given = an_object(where, raw)
    only_known(f"{where}.", given, ("method", "dimension"))
    method = given.get("method")
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{where}.method: {str(method)[:40]!r} is none of {', '.join(METHODS)}{hint}")
    options = an_object(f"{where}.dimension", given.get("dimension"))
    if method != "categorical":
        return Dimension(method, MappingProxyType(_options(where, method, options)))
    only_known(f"{where}.dimension.", options, ("categories", "choices"))
    categories = options.get("categories", options.get("choices"))
    if not isinstance(categories, (list, tuple)) or not categories:
        raise ValueError(f"{where}.dimension.categories: must be a list")
    return Dimension(method, MappingProxyType({"categories": list(categories)}))


def _options(where: str, method: str, options: dict[str, Any]) -> dict[str, float]:
    names = ("mu", "sigma") if "normal" in method else ("low", "high")
    needed = (*names, "q") if method.startswith("q") else names
    # a base of a logarithm changes nothing in what is drawn
    only_known(f"{where}.dimension.", options, (*needed, "base"))
    found = {name: a_real(f"{where}.dimension.{name}", options.get(name)) for name in needed}
    if "low" in found and not found["low"] <= found["high"]:
        raise ValueError(f"{where}.dimension: low is above high")
    if "log" in method and found.get("low", 1) <= 0:
        raise ValueError(f"{where}.dimension.low: must be above 0 for {method}")
    if found.get("q", 1) <= 0 or found.get("sigma", 1) <= 0:
        raise ValueError(f"{where}.dimension: q and sigma must be above 0")
    if method.endswith("int") and any(value != int(value) for value in found.values()):
        raise ValueError(f"{where}.dimension: must have whole numbers for {method}")
    return found


def _same(one: object, other: object) -> bool:
    """Equal, and true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
