"""The points of a grid study: each combination of values once, but for those that the study file has brought."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from pilot.values.space import Dimension
from pilot.values.study import Study


def suggest(study: Study, known: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Up to ``count`` points that are not known; with a seed in an order of its own."""
    points = list(_points(study.search_space))
    if study.steering.seed is not None:
        random.Random(study.steering.seed).shuffle(points)  # noqa: S311 - an order, no secret
    return [one for one in points if one not in known][:count]


def size(study: Study, segment: int) -> int:
    """How many points there are: those of the grid, and those of the study file that are not on it."""
    values = {name: _values(one) for name, one in study.search_space.items()}
    extra: list[Mapping[str, Any]] = []
    for number, point, _ in study.initial_points:
        on_grid = all(value in values[name] for name, value in point.items())
        if number == segment and not on_grid and point not in extra:
            extra.append(point)
    return math.prod(map(len, values.values())) + len(extra)


def _points(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    values = [_values(one) for one in space.values()]
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*values)]


def _values(one: Dimension) -> list[Any]:
    if one.method == "categorical":
        return list(one.options["categories"])
    low, step = one.options["low"], one.options.get("q", 1)
    whole = one.method.endswith("int")
    return [int(low + n * step) if whole else low + n * step for n in range(one.grid_size)]
