"""Search spaces: the methods of a study file as Optuna's distributions (hpo-contract.md 5.2).

What Optuna has no distribution for is sampled on a scale of its own, and carried over: a normal variable by its
quantile, a category by its place in the list.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pilot.values.space import Dimension

_EDGE = 1e-6  # of a quantile: infinity is no parameter


def distribution(one: Dimension) -> BaseDistribution:
    """What Optuna samples."""
    options = one.options
    if one.method == "categorical":
        return CategoricalDistribution(range(len(options["categories"])))
    if "normal" in one.method:
        return FloatDistribution(_EDGE, 1 - _EDGE)
    low, high = options["low"], options["high"]
    if one.method.endswith("int"):
        return IntDistribution(int(low), int(_end(one)), step=int(options.get("q", 1)))
    if one.method == "quniform":
        return FloatDistribution(low, _end(one), step=options["q"])
    return FloatDistribution(low, high, log="log" in one.method)


def decode(one: Dimension, value: Any) -> Any:
    """What Optuna has sampled, as the evaluation gets it."""
    options = one.options
    if one.method == "categorical":
        return options["categories"][int(value)]
    if "normal" in one.method:
        value = NormalDist(options["mu"], options["sigma"]).inv_cdf(value)
        value = math.exp(min(value, _LARGEST_EXPONENT)) if "log" in one.method else value
    if one.method in ("qnormal", "qlognormal", "qloguniform"):
        value = round(value / options["q"]) * options["q"]
    return min(options["high"], max(options["low"], value)) if one.method == "qloguniform" else value


_LARGEST_EXPONENT = 700.0


def encode(one: Dimension, value: Any) -> Any:
    """The way back; a value between two that can be drawn becomes the nearest of them."""
    options = one.options
    if one.method == "categorical":
        return _index(options["categories"], value)
    if "normal" in one.method:
        value = math.log(max(value, 5e-324)) if "log" in one.method else value
        return min(1 - _EDGE, max(_EDGE, NormalDist(options["mu"], options["sigma"]).cdf(value)))
    low = options["low"]
    if one.method in ("quniform", "quniformint"):
        steps = round((value - low) / options["q"])
        value = low + min(one.grid_size - 1, max(0, steps)) * options["q"]
    value = min(options["high"], max(low, value))
    return int(value) if one.method.endswith("int") else float(value)


def _end(one: Dimension) -> float:
    """The last value that can be reached in steps."""
    return float(one.options["low"] + (one.grid_size - 1) * one.options.get("q", 1))


def _index(categories: list[Any], value: Any) -> int:
    """The place of a category; true is not 1."""
    alike = (n for n, one in enumerate(categories) if one == value and isinstance(one, bool) == isinstance(value, bool))
    return next(alike)
