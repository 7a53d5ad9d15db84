"""A study file: what is to be optimised, where, how, and what evaluates a point (hpo-contract.md 10.8).

The names of phpo's options are understood as well. The loss is always minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pilot.values.checking import a_name, a_number, a_real, a_text, an_object, only_known, texts
from pilot.values.hpo import finite
from pilot.values.names import Lfn, Name
from pilot.values.space import Dimension, check_grid, parse_space

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median", "halving")

_ALIASES = {
    "name": "study",
    "maxPoints": "max_points",
    "nParallelEvaluation": "parallel_jobs",
    "nPointsPerIteration": "points_per_iteration",
    "num_points_per_generation": "points_per_iteration",
    "num_points_per_iteration": "points_per_iteration",
    "minUnevaluatedPoints": "min_unevaluated_points",
    "maxPointsPerEvaluationJob": "points_per_job",
    "searchSpace": "search_space",
    "opt_space": "search_space",
    "evaluationExec": "evaluation.exec",
    "evaluationInput": "evaluation.input",
    "evaluationTrainingData": "evaluation.training_data",
    "evaluationOutput": "evaluation.output",
    "evaluationMeta": "evaluation.meta",
    "evaluationMetrics": "evaluation.metrics",
    "evaluationContainer": "evaluation.image",
    "checkPointToSave": "checkpoint.save",
    "checkPointToLoad": "checkpoint.load",
    "checkPointInterval": "checkpoint.interval_minutes",
}
_MOST_POINTS = 100_000


@dataclass(frozen=True, slots=True)
class Steering:
    """Who makes points. ``startup_points`` are random ones before TPE learns."""

    builtin: str = "tpe"
    seed: int | None = None
    startup_points: int = 10


@dataclass(frozen=True, slots=True)
class Pruning:
    """When an evaluation is given up: not before ``warmup_steps``, nor before so many points have ended."""

    kind: str = "none"
    warmup_steps: int = 0
    startup_points: int = 4


@dataclass(frozen=True, slots=True)
class Evaluating:
    """What evaluates a point. ``cores``, ``memory_mib`` and ``gpus`` are those of one evaluation."""

    exec: str
    input: str = "input.json"
    training_data: str = "input_ds.json"
    output: str = "output.json"
    meta: str = "meta.json"
    metrics: str = ""
    image: str = ""
    timeout_seconds: int = 0
    sandbox: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    per_gpu: int = 1
    cores: int = 1
    memory_mib: int = 0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """What is kept of an evaluation that is taken away; see `pilot.values.hpo.Checkpoints`."""

    save: tuple[str, ...] = ()
    load: str = ""
    interval_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Study:
    """A study, checked. ``points_per_iteration`` 0: asynchronous; with ``segments`` ``max_points`` is for each.

    ``initial_points`` are segment (0 without), parameters, and the loss where it is known.
    """

    study: str
    max_points: int
    search_space: Mapping[str, Dimension]
    evaluation: Evaluating
    task_id: int | None = None
    points_per_iteration: int = 0
    min_unevaluated_points: int = 0
    initial_points: tuple[tuple[int, Mapping[str, Any], float | None], ...] = ()
    segments: tuple[str, ...] = ()
    steering: Steering = field(default_factory=Steering)
    pruner: Pruning = field(default_factory=Pruning)
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    parallel_jobs: int = 100
    points_per_job: int = 0
    attempts: int = 5

    def as_json(self) -> dict[str, Any]:
        """An object that `parse_study` reads again."""
        space = {
            name: {"method": one.method, "dimension": dict(one.options)} for name, one in self.search_space.items()
        }
        initial = [
            [[segment, dict(point)] if self.segments else dict(point), loss]
            for segment, point, loss in self.initial_points
        ]
        plain = {name: getattr(self, name) for name in _PLAIN}
        parts = {name: asdict(getattr(self, name)) for name in ("evaluation", "steering", "pruner", "checkpoint")}
        return {**_json(plain), **_json(parts), "search_space": space, "initial_points": initial}


_PLAIN = ("study", "max_points", "task_id", "points_per_iteration", "min_unevaluated_points", "segments",
          "parallel_jobs", "points_per_job", "attempts")  # fmt: skip


def _json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON has them; what is None is left out."""
    shown = {key: _json(one) if isinstance(one, Mapping) else one for key, one in fields.items() if one is not None}
    return {key: list(one) if isinstance(one, tuple) else one for key, one in shown.items()}


def parse_study(raw: object) -> Study:
    """Check a study. Raises ValueError with one line that names the field."""
    given = _renamed(an_object("study file", raw))
    only_known("", given, (*Study.__dataclass_fields__,))
    space = parse_space(given.get("search_space"))
    segments = texts("segments", given.get("segments", []))
    study = Study(
        study=a_name("study", given.get("study", "study"), Name),
        max_points=a_number("max_points", given.get("max_points"), 1, _MOST_POINTS),
        search_space=space,
        evaluation=_part("evaluation", given.get("evaluation"), Evaluating, _evaluating),
        steering=_part("steering", given.get("steering", {}), Steering, _steering),
        pruner=_part("pruner", _worded(given.get("pruner", {})), Pruning, _pruning),
        checkpoint=_part("checkpoint", given.get("checkpoint", {}), Checkpointing, _checkpointing),
        initial_points=_initial(given.get("initial_points", []), space, segments),
        segments=segments,
        **{name: a_number(name, given[name], least) for name, least in _NUMBERS.items() if given.get(name) is not None},
    )
    _check(study)
    return study


_NUMBERS = {
    "task_id": 1,
    "points_per_iteration": 0,
    "min_unevaluated_points": 0,
    "parallel_jobs": 1,
    "points_per_job": 0,
    "attempts": 1,
}


def _check(study: Study) -> None:
    """Raise ValueError where fields do not fit together."""
    if study.min_unevaluated_points and study.min_unevaluated_points >= study.points_per_iteration:
        raise ValueError("min_unevaluated_points: must be less than points_per_iteration")
    for number in range(max(1, len(study.segments))):
        if sum(one[0] == number for one in study.initial_points) > study.max_points:
            raise ValueError("initial_points: are more than max_points")
    if study.steering.builtin == "grid":
        check_grid(study.search_space)


def _renamed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """With our own names instead of phpo's."""
    given: dict[str, Any] = {}
    for key, value in raw.items():
        part, _, name = _ALIASES.get(str(key), str(key)).rpartition(".")
        if not part:
            given[name] = value
            continue
        inner = given.setdefault(part, {})
        if isinstance(inner, dict):
            inner[name] = value
    return given


def _part(name: str, raw: object, kind: Any, check: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    given = an_object(name, raw)
    extra = {"checkpoint": ("interval_minutes",), "steering": ("exec",)}.get(name, ())
    only_known(f"{name}.", given, (*kind.__dataclass_fields__, *extra))
    return kind(**check(given))


def _evaluating(given: dict[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {"exec": a_text("evaluation.exec", given.pop("exec", None))}
    if not checked["exec"].strip():
        raise ValueError("evaluation.exec: is empty")
    for name, value in given.items():
        where = f"evaluation.{name}"
        if name in ("sandbox", "inputs"):
            checked[name] = texts(where, value)
        elif name == "image":
            checked[name] = a_text(where, value)
        elif name in ("per_gpu", "cores"):
            checked[name] = a_number(where, value, 1)
        elif name in ("timeout_seconds", "memory_mib", "gpus"):
            checked[name] = a_number(where, value, 0)
        else:
            checked[name] = a_name(where, value, Lfn) if value else ""
    return checked


def _steering(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("exec") is not None:
        raise ValueError("steering.exec: is not supported here; use steering.builtin: " + ", ".join(SAMPLERS))
    builtin = given.get("builtin", "tpe")
    if builtin not in SAMPLERS:
        raise ValueError(f"steering.builtin: {str(builtin)[:40]!r} is none of {', '.join(SAMPLERS)}")
    numbers = {
        name: a_number(f"steering.{name}", given[name], 0, 2**32 - 1)
        for name in ("seed", "startup_points")
        if given.get(name) is not None
    }
    return {"builtin": builtin, **numbers}


def _worded(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


def _pruning(given: dict[str, Any]) -> dict[str, Any]:
    kind = given.pop("kind", "none")
    if kind not in PRUNERS:
        raise ValueError(f"pruner: {str(kind)[:40]!r} is none of {', '.join(PRUNERS)}")
    return {"kind": kind, **{name: a_number(f"pruner.{name}", value, 0) for name, value in given.items()}}


def _checkpointing(given: dict[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    if "interval_minutes" in given:
        given["interval_seconds"] = 60 * a_real("checkpoint.interval_minutes", given.pop("interval_minutes"))
    if "save" in given:
        checked["save"] = texts("checkpoint.save", given["save"])
    if given.get("load"):
        checked["load"] = a_name("checkpoint.load", given["load"], Lfn)
    if "interval_seconds" in given:
        checked["interval_seconds"] = a_real("checkpoint.interval_seconds", given["interval_seconds"])
        if checked["interval_seconds"] <= 0:
            raise ValueError("checkpoint.interval_seconds: must be more than 0")
    return checked


def _initial(
    raw: object, space: Mapping[str, Dimension], segments: Sequence[str]
) -> tuple[tuple[int, Mapping[str, Any], float | None], ...]:
    if not isinstance(raw, (list, tuple)):
        raise ValueError("initial_points: must be a list of [parameters, loss or null]")  # noqa: TRY004 - as above
    return tuple(_known_point(f"initial_points[{number}]", one, space, segments) for number, one in enumerate(raw))


def _known_point(
    where: str, pair: object, space: Mapping[str, Dimension], segments: Sequence[str]
) -> tuple[int, Mapping[str, Any], float | None]:
    if not isinstance(pair, (list, tuple)) or len(pair) != _PAIR:
        raise ValueError(f"{where}: must be [parameters, loss or null]")
    segment, point = 0, pair[0]
    if segments:
        if not isinstance(point, (list, tuple)) or len(point) != _PAIR:
            raise ValueError(f"{where}: its parameters must be [segment, {{...}}]")
        segment, point = a_number(f"{where}: segment", point[0], 0, len(segments) - 1), point[1]
    parameters = an_object(where, point)
    if set(parameters) != set(space):
        raise ValueError(f"{where}: its parameters are not those of search_space")
    for name, value in parameters.items():
        if complaint := space[name].complaint(value):
            raise ValueError(f"{where}.{name}: {str(value)[:40]!r} {complaint}")
    loss = None if pair[1] is None else finite(pair[1])
    if pair[1] is not None and loss is None:
        raise ValueError(f"{where}: its loss is no finite number")
    return segment, parameters, loss


_PAIR = 2
