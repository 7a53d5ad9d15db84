"""The plots of a study's page: Optuna's own, and which slot was busy when; dark on white, told apart by shape."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from pilot.agent.local.results import is_number
from pilot.values.study import Study, parse_study

_SYMBOLS = ("circle", "x", "square", "diamond", "triangle-up", "cross", "star", "triangle-down")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_GREYS = [[0.0, "#000000"], [1.0, "#c8c8c8"]]
_ENOUGH = 4  # points, for what compares parameters
_MOST_CURVES = 60
_PATTERNS = {"measured": "", "pruned": "\\", "running": ".", "failed": "x", "stopped": "-", "cut off": "|"}
_OTHER_PATTERN = "+"


def plots(found: Mapping[str, Any]) -> str:
    """HTML of all plots for which there is enough; plotly's script once, before the first."""
    parts = [f"<script>{get_plotlyjs()}</script>"]
    for number, (title, figure) in enumerate(_figures(found)):
        text = to_html(figure, full_html=False, include_plotlyjs=False, div_id=f"plot{number}", config=_CONFIG)
        parts.append(f"<h2>{title}</h2>\n{text}")
    return "\n".join(parts) if len(parts) > 1 else ""


_WORDS = {
    "Trial": "Point",
    "Objective Value": "Loss",
    "Best Value": "Best loss",
    "Intermediate Value": "Loss",
    "Hyperparameter": "Parameter",
    "Hyperparameter Importance": "Share of the differences",
}
"""Optuna's words, and ours."""

_CONFIG = {"displaylogo": False, "responsive": True}


def _figures(found: Mapping[str, Any]) -> Iterator[tuple[str, go.Figure]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for title, figure, losses in _of_optuna(rebuilt(found)):
            _darken(figure)
            yield title, _rank(figure, losses)
    if found["evaluations"]:
        figure = _slots(found)
        _darken(figure)
        yield "Slots", figure


def _of_optuna(study: optuna.Study) -> Iterator[tuple[str, go.Figure, list[float]]]:
    """Title, figure, and the losses of the points that have a line of their own in it."""
    drawn = optuna.visualization
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if done:
        yield "Optimisation history", drawn.plot_optimization_history(study), []
    if len(done) >= 2:
        losses = [one.value or 0.0 for one in done]
        yield "Parallel coordinates (the thick line is the best point)", drawn.plot_parallel_coordinate(study), losses
        yield "Slices", drawn.plot_slice(study), []
    if len(done) >= _ENOUGH and (figure := _if_possible(lambda: _importances(study))) is not None:
        yield "Importance of parameters", figure, []
    curves = [one for one in study.get_trials(deepcopy=False) if one.intermediate_values]
    if curves:
        best = sorted(curves, key=lambda one: one.value or 0.0)[:_MOST_CURVES]
        shown = optuna.create_study(direction="minimize")
        shown.add_trials(best)
        figure = drawn.plot_intermediate_values(shown)
        yield "Intermediate losses (the thick line is the best point)", figure, [one.value or 0.0 for one in best]


def _importances(study: optuna.Study) -> go.Figure:
    """By the evaluator that needs no package beside Optuna."""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.visualization.plot_param_importances(study, evaluator=evaluator)


def _if_possible(make: Callable[[], go.Figure]) -> go.Figure | None:
    """Optuna refuses what cannot be computed: one value for all points, for example."""
    try:
        return make()
    except (ValueError, RuntimeError):
        return None


# --- the study, as Optuna would have it ---------------------------------------------------------------------


def rebuilt(found: Mapping[str, Any]) -> optuna.Study:
    """A study in memory with the points of results.json; a point's id is its trial's number."""
    study = optuna.create_study(direction="minimize", study_name=found["name"])
    space = _space(parse_study(found["study"]), found["points"])
    points = {int(one["id"]): _trial(one, space) for one in found["points"]}
    nothing = create_trial(state=TrialState.FAIL)
    study.add_trials([points.get(number) or nothing for number in range(max(points, default=0) + 1)])
    return study


def _space(study: Study, points: list[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """The parameters with their own values on the axes; a segmented study has the model among them."""
    seen = [_values(one["parameters"]) for one in points]
    space = {}
    for name, one in study.search_space.items():
        values = [point[name] for point in seen if name in point]
        space[name] = _distribution(one.method, one.options, values)
    if study.segments:
        space["model"] = CategoricalDistribution(range(len(study.segments)))
    return space


def _distribution(method: str, options: Mapping[str, Any], values: list[Any]) -> BaseDistribution:
    if method == "categorical":
        return CategoricalDistribution(list(dict.fromkeys(_category(one) for one in options["categories"])))
    low = min([options.get("low", math.inf), *values])
    high = max([options.get("high", -math.inf), *values])
    if math.isinf(low) or math.isinf(high):
        return FloatDistribution(0, 1)
    if method.endswith("int"):
        return IntDistribution(math.floor(low), math.ceil(high))
    return FloatDistribution(low, high, log="log" in method and low > 0)


def _category(value: Any) -> Any:
    """Optuna knows plain values only."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _values(parameters: Any) -> dict[str, Any]:
    if isinstance(parameters, list) and len(parameters) == 2:
        return {**parameters[1], "model": parameters[0]}
    return dict(parameters)


def _trial(point: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> FrozenTrial | None:
    """A point that was evaluated; one that failed would only stretch the axes."""
    values = {name: _category(value) for name, value in _values(point["parameters"]).items()}
    if point["state"] not in ("evaluated", "pruned") or not is_number(point["loss"]) or set(values) != set(space):
        return None
    return create_trial(
        state=TrialState.COMPLETE if point["state"] == "evaluated" else TrialState.PRUNED,
        value=point["loss"],
        params=values,
        distributions=dict(space),
        intermediate_values={one["step"]: one["loss"] for one in point["progress"]},
    )


# --- slots ------------------------------------------------------------------------------------------------


def _slots(found: Mapping[str, Any]) -> go.Figure:
    """A row for each slot, a bar for each evaluation, hatched where it gave no loss."""
    stays = found["evaluations"]
    names = {one["slot"]: f"slot {one['slot']}  {_device(one['device'])}" for one in stays}
    order = [names[slot] for slot in sorted(names, reverse=True)]
    figure = go.Figure()
    for verdict in dict.fromkeys(one["verdict"] for one in stays):
        own = [one for one in stays if one["verdict"] == verdict]
        figure.add_bar(
            name=verdict,
            orientation="h",
            base=[one["began"] for one in own],
            x=[max(one["ended"] - one["began"], 1e-3) for one in own],
            y=[names[one["slot"]] for one in own],
            text=[one["point"] for one in own],
            hovertext=[f"point {one['point']}, attempt {one['attempt']}: {verdict}" for one in own],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"color": "#000000"},
            marker={
                "color": "#ffffff",
                "line": {"color": "#000000", "width": 1},
                "pattern": {"shape": _PATTERNS.get(verdict, _OTHER_PATTERN), "fgcolor": "#a0a0a0", "size": 8},
            },
        )
    for start in found["lives"][1:]:
        figure.add_vline(x=start, line={"color": "#000000", "dash": "dash", "width": 1})
    figure.update_layout(
        barmode="overlay",
        showlegend=True,
        xaxis_title="seconds that pilots have lived" + ("; dashed: started again" if found["lives"][1:] else ""),
        yaxis={"categoryorder": "array", "categoryarray": order, "ticksuffix": "  "},
        height=180 + 42 * len(order),
    )
    return figure


def _device(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:12]}..."


# --- black and white --------------------------------------------------------------------------------------


def _darken(figure: go.Figure) -> None:
    """Black, grey and white only, and our words; the page's width, whatever Optuna has thought of."""
    figure.update_layout(
        template="plotly_white", title=None, font={"color": "#000000", "size": 13}, colorway=["#000000"], width=None,
        autosize=True, margin={"l": 80, "r": 40, "t": 30, "b": 60}, paper_bgcolor="#ffffff", plot_bgcolor="#ffffff",
    )  # fmt: skip
    for axes in (figure.select_xaxes(), figure.select_yaxes()):
        for axis in axes:
            axis.update(linecolor="#000000", gridcolor="#e0e0e0", automargin=True)
            if axis.title.text in _WORDS:
                axis.title.text = _WORDS[axis.title.text]
    for note in figure.layout.annotations:
        note.update(text=_WORDS.get(note.text, note.text), font={"color": "#000000"}, bgcolor="#ffffff")
    if figure.layout.xaxis.ticktext:
        figure.layout.xaxis.ticktext = [_WORDS.get(one, one) for one in figure.layout.xaxis.ticktext]
    scatters = [trace for trace in figure.data if trace.type == "scatter"]
    for number, trace in enumerate(scatters):
        trace.name = _WORDS.get(trace.name, trace.name)
        _darken_scatter(trace, number)
    for trace in figure.data:
        if trace.type == "parcoords":  # of Optuna 4
            trace.line.update(colorscale=_GREYS, reversescale=False)
        elif trace.type == "bar" and trace.base is None:
            trace.marker.color = "#505050"


def _darken_scatter(trace: Any, number: int) -> None:
    """Told apart by symbol and dash; where a value is a shade, by the shade."""
    marker = trace.marker
    if marker.color is not None and not isinstance(marker.color, str):
        marker.update(colorscale=_GREYS, reversescale=False, line={"color": "#000000", "width": 1}, size=9)
        if marker.colorbar.title.text in _WORDS:
            marker.colorbar.title.text = _WORDS[marker.colorbar.title.text]
        return
    marker.update(color="#000000", symbol=_SYMBOLS[number % len(_SYMBOLS)])
    trace.line.update(color="#000000", dash=_DASHES[number % len(_DASHES)])


def _rank(figure: go.Figure, losses: list[float]) -> go.Figure:
    """One line for each point: the best black and thick, the others the paler the worse."""
    lines = [trace for trace in figure.data if trace.type == "scatter" and "lines" in (trace.mode or "")]
    order = sorted(range(len(losses)), key=losses.__getitem__)
    if len(lines) != len(losses):
        return figure
    for rank, number in enumerate(order):
        grey = round(0xB0 * rank / len(losses))
        lines[number].update(opacity=1.0, line={"color": f"#{grey:02x}{grey:02x}{grey:02x}", "dash": "solid"})
        lines[number].line.width = 1.2 if rank else 4
        lines[number].marker.update(color=lines[number].line.color, size=5)
    return figure
