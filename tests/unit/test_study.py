"""Study files: what is understood, and which line refuses the rest."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.values.study import Steering, parse_study

SPACE = {"x": {"method": "uniform", "dimension": {"low": 0, "high": 1}}}
COUNT = {"method": "uniformint", "dimension": {"low": 1, "high": 4}}


def study(**more):
    return {"study": "one", "max_points": 4, "search_space": SPACE, "evaluation": {"exec": "true"}, **more}


EVERYTHING = study(
    task_id=7,
    points_per_iteration=8,
    min_unevaluated_points=4,
    segments=["a", "b"],
    search_space={
        "x": SPACE["x"],
        "n": COUNT,
        "lr": {"method": "loguniform", "dimension": {"low": 1e-5, "high": 0.1, "base": 10}},
        "w": {"method": "qnormal", "dimension": {"mu": 0, "sigma": 1, "q": 0.5}},
        "opt": {"method": "categorical", "dimension": {"categories": ["adam", None, True, 1, [2, 3]]}},
    },
    initial_points=[[[1, {"x": 0.5, "n": 2, "lr": 0.01, "w": -1, "opt": None}], 0.25]],
    steering={"builtin": "random", "seed": 3, "startup_points": 2},
    pruner={"kind": "median", "warmup_steps": 2, "startup_points": 5},
    evaluation={"exec": "sh run.sh", "image": "hub/x:1", "metrics": "m.tgz", "inputs": ["a.h5"], "per_gpu": 2},
    checkpoint={"save": ["ckpt"], "load": "old.tgz", "interval_seconds": 60},
    parallel_jobs=3,
    points_per_job=9,
    attempts=2,
)


@pytest.mark.parametrize("raw", [study(), EVERYTHING], ids=["least", "everything"])
def test_what_a_study_gives_as_json_is_read_as_the_same_study(raw):
    once = parse_study(raw)
    text = json.dumps(once.as_json())
    assert parse_study(json.loads(text)) == once
    assert json.dumps(parse_study(json.loads(text)).as_json()) == text


def test_all_fields_are_understood():
    whole = parse_study(EVERYTHING)
    assert whole.initial_points == ((1, {"x": 0.5, "n": 2, "lr": 0.01, "w": -1, "opt": None}, 0.25),)
    assert whole.steering == Steering("random", 3, 2)
    assert (whole.checkpoint.save, whole.checkpoint.interval_seconds) == (("ckpt",), 60)
    assert (whole.pruner.kind, whole.pruner.warmup_steps) == ("median", 2)
    assert whole.evaluation.input == "input.json"


def test_the_names_of_phpos_options_are_understood():
    whole = parse_study(
        {
            "maxPoints": 6,
            "nParallelEvaluation": 2,
            "nPointsPerIteration": 3,
            "minUnevaluatedPoints": 1,
            "maxPointsPerEvaluationJob": 5,
            "searchSpace": SPACE,
            "evaluationExec": "true",
            "evaluationInput": "in.json",
            "evaluationMetrics": "m.tgz",
            "evaluationContainer": "hub/x:1",
            "checkPointToSave": "a,b",
            "checkPointInterval": 5,
        }
    )
    assert (whole.max_points, whole.parallel_jobs, whole.points_per_iteration) == (6, 2, 3)
    assert (whole.min_unevaluated_points, whole.points_per_job) == (1, 5)
    assert (whole.evaluation.input, whole.evaluation.metrics, whole.evaluation.image) == ("in.json", "m.tgz", "hub/x:1")
    assert (whole.checkpoint.save, whole.checkpoint.interval_seconds) == (("a", "b"), 300)


def test_a_number_that_yaml_takes_for_a_text_is_a_number():
    space = {"lr": {"method": "loguniform", "dimension": {"low": "1e-5", "high": "1e-1"}}}
    assert parse_study(study(search_space=space)).search_space["lr"].options == {"low": 1e-5, "high": 0.1}


def space(method, **dimension):
    return {"search_space": {"x": {"method": method, "dimension": dimension}}}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"max_point": 3}, "max_point: unknown key; did you mean max_points?"),
        ({"max_points": None}, "max_points: is missing"),
        ({"max_points": 0}, "max_points: '0' is no whole number of at least 1 and at most 100000"),
        ({"max_points": True}, "max_points: 'True' is no whole number"),
        ({"study": "a b/c"}, "study: "),
        ({"evaluation": {"exec": " "}}, "evaluation.exec: is empty"),
        ({"evaluation": {"exec": "true", "ouput": "x"}}, "evaluation.ouput: unknown key; did you mean output?"),
        ({"evaluation": {"exec": "true", "output": "../x"}}, "evaluation.output: "),
        ({"steering": {"builtin": "tpee"}}, "steering.builtin: 'tpee' is none of tpe, random, grid"),
        ({"steering": {"exec": "python steer.py"}}, "steering.exec: is not supported here; use steering.builtin"),
        ({"pruner": "hyperband"}, "pruner: 'hyperband' is none of none, median, halving"),
        ({"min_unevaluated_points": 2}, "min_unevaluated_points: must be less than points_per_iteration"),
        ({"search_space": {}}, "search_space: is empty"),
        (space("unifrom", low=0, high=1), "search_space.x.method: 'unifrom' is none of"),
        (space("uniform", low=1, high=0), "search_space.x.dimension: low is above high"),
        (space("uniform", low=0), "search_space.x.dimension.high: 'None' is no number"),
        (space("uniform", low=0, hihg=1), "search_space.x.dimension.hihg: unknown key; did you mean high?"),
        (space("loguniform", low=0, high=1), "search_space.x.dimension.low: must be above 0 for loguniform"),
        (space("normal", mu=0, sigma=0), "search_space.x.dimension: q and sigma must be above 0"),
        (space("uniformint", low=0.5, high=2), "search_space.x.dimension: must have whole numbers"),
        (space("categorical", categories=[]), "search_space.x.dimension.categories: must be a list"),
        ({"initial_points": [{"x": 1}]}, "initial_points[0]: must be [parameters, loss or null]"),
        ({"initial_points": [[{"y": 1}, 0.1]]}, "initial_points[0]: its parameters are not those of search_space"),
        ({"initial_points": [[{"x": 2}, 0.1]]}, "initial_points[0].x: '2' is not between 0 and 1"),
        ({"initial_points": [[{"x": "a"}, 0.1]]}, "initial_points[0].x: 'a' is no number"),
        ({"initial_points": [[{"x": 1}, "nan"]]}, "initial_points[0]: its loss is no finite number"),
        ({"initial_points": [[{"x": 1}, None]] * 5}, "initial_points: are more than max_points"),
        ({"initial_points": [[{"x": 1}, None]], "segments": ["a"]}, "initial_points[0]: its parameters must be [segm"),
        ({"steering": {"builtin": "grid"}}, "search_space.x: uniform has no grid"),
        (
            {**space("uniformint", low=0, high=10**9), "steering": {"builtin": "grid"}},
            "search_space: its grid has 1000000001 points",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_one_line_that_names_the_field(more, line):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refusal:
        parse_study(study(**more))
    assert str(refusal.value).startswith(line)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({*EVERYTHING, "maxPoints", "checkPointInterval"})


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
def test_whatever_a_field_holds_it_is_understood_or_refused(fields):
    try:
        whole = parse_study(study(**fields))
    except ValueError:
        return
    assert parse_study(whole.as_json()) == whole
