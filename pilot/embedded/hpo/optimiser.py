"""The optimiser: Optuna, rebuilt from the points that are kept: there is one truth, and a restart changes nothing.

The sampler of each point is seeded by the study's seed, the segment and how many points there are before it: what it
makes depends on nothing else, neither on how many are asked for at a time nor on how long the server runs.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pilot.embedded.hpo import distributions
from pilot.embedded.hpo.trial import Trial
from pilot.values.space import Dimension
from pilot.values.study import Study

optuna.logging.set_verbosity(optuna.logging.ERROR)

_WORST = 1e30


def suggest(study: Study, trials: Sequence[Trial], count: int, segment: int = 0) -> list[dict[str, Any]]:
    """``count`` new points, made while those without a loss run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(_suggested(study, trials, count, segment))


def _suggested(study: Study, trials: Sequence[Trial], count: int, segment: int) -> Iterator[dict[str, Any]]:
    space = study.search_space
    asked = {name: distributions.distribution(one) for name, one in space.items()}
    made = optuna.create_study(direction="minimize")
    if study.steering.builtin != "random":
        made.add_trials([_trial(space, asked, one) for one in trials])
    for number in range(len(trials), len(trials) + count):
        made.sampler = _sampler(study, segment, number)
        chosen = made.ask(asked).params
        yield {name: distributions.decode(one, chosen[name]) for name, one in space.items()}


def _sampler(study: Study, segment: int, number: int) -> optuna.samplers.BaseSampler:
    steering = study.steering
    text = f"{steering.seed}:{segment}:{number}"
    seed = None if steering.seed is None else int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    if steering.builtin == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # several pods work at once: a point that runs must count as one that was bad, or all get the same
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=steering.startup_points, constant_liar=True, multivariate=True
    )


def _trial(space: Mapping[str, Dimension], drawn: dict[str, BaseDistribution], one: Trial) -> FrozenTrial:
    """A point as Optuna keeps it; a loss that is no number is the worst."""
    state = TrialState.RUNNING if one.loss is None else TrialState.PRUNED if one.pruned else TrialState.COMPLETE
    loss = one.loss if one.loss is None or math.isfinite(one.loss) else _WORST
    return create_trial(
        state=state,
        params={name: distributions.encode(dimension, one.parameters[name]) for name, dimension in space.items()},
        distributions=drawn,
        value=loss,
        intermediate_values=dict(one.steps) if one.pruned else {},  # of others they are copied for nothing
    )
