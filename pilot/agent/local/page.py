"""The page of a study: one HTML file that needs nothing else, readable in black and white."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from pilot.agent.local.board import number
from pilot.agent.local.results import ranking
from pilot.values.printable import line

_STYLE = """
body { font: 16px/1.45 sans-serif; color: #000; background: #fff; margin: 2em auto; max-width: 1120px; padding: 0 1em; }
h1 { font-size: 1.7em; margin-bottom: .1em; } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #000; }
table { border-collapse: collapse; } th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #999; }
th { border-bottom: 2px solid #000; text-align: right; } td.text, th.text { text-align: left; }
tr.best td { font-weight: bold; border-top: 2px solid #000; border-bottom: 2px solid #000; }
.wide { overflow-x: auto; } dl { display: grid; grid-template-columns: max-content auto; gap: .1em 1.5em; }
dt { font-weight: bold; } dd { margin: 0; overflow-wrap: anywhere; } p.note { font-style: italic; }
@media print { body { max-width: none; margin: 0; } }
"""


def page(found: Mapping[str, Any]) -> str:
    """The whole page, for the content of results.json."""
    try:
        from pilot.agent.local.plots import plots  # noqa: PLC0415 - loads optuna and plotly, at the very end only
    except ImportError as error:
        drawn = f"<p class=note>Plots need more packages: pip install 'panda-pod-pilot[embedded]' ({_text(error)})</p>"
    else:
        drawn = plots(found)
    name = _text(found["name"])
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'><title>{name}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{name}</h1>\n{_summary(found)}\n{_best(found)}\n{drawn}\n{_points(found)}\n</body></html>\n"
    )


def _summary(found: Mapping[str, Any]) -> str:
    counts = [f"{found['evaluated']} of {found['max_points']} points evaluated"]
    counts += [f"{found[what]} {what}" for what in ("pruned", "failed") if found[what]]
    why = f": {found['why']}" if found.get("why") else ""
    said = f"{found['state']}{why}; {', '.join(counts)}; {found['seconds']:.1f} s of evaluation"
    lives = len(found["lives"])
    return f"<p>{_text(said)}{f', in {lives} runs of the pilot' if lives > 1 else ''}. The loss is minimised.</p>"


def _best(found: Mapping[str, Any]) -> str:
    best = found["best"]
    if best is None:
        return "<h2>Best point</h2><p>No point was evaluated.</p>"
    exact = [("loss", best["loss"]), ("point", best["id"]), *flat(best["parameters"]).items()]
    rows = "".join(f"<dt>{_text(key)}</dt><dd>{_text(_shown(value))}</dd>" for key, value in exact)
    return f"<h2>Best point</h2><dl>{rows}</dl>"


def _points(found: Mapping[str, Any]) -> str:
    """All points: those with a loss by their loss, then the rest by number."""
    ranked = ranking(found["points"])
    known = {one["id"] for one in ranked}
    rest = [one for one in found["points"] if one["id"] not in known]
    names = list(dict.fromkeys(key for one in found["points"] for key in flat(one["parameters"])))
    head = "".join(f"<th>{_text(name)}</th>" for name in ("point", "loss", *names, "state", "slot", "seconds"))
    rows = "".join(_row(one, names, best=number == 0 and bool(ranked)) for number, one in enumerate([*ranked, *rest]))
    return (
        f"<h2>All points</h2><div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(one: Mapping[str, Any], names: list[str], *, best: bool) -> str:
    values = flat(one["parameters"])
    seconds = one.get("seconds")
    cells = [
        one["id"],
        "" if one["loss"] is None or one["state"] == "failed" else number(one["loss"]),
        *(number(values[name]) if isinstance(values.get(name), float) else _shown(values.get(name)) for name in names),
        one["state"],
        one.get("slot", ""),
        "" if seconds is None else f"{seconds:.1f}",
    ]
    return f"<tr{' class=best' if best else ''}>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"


def flat(parameters: Any) -> dict[str, Any]:
    """The parameters of a point by name; of a segmented study with the model's number among them."""
    if isinstance(parameters, list) and len(parameters) == 2 and isinstance(parameters[1], dict):
        return {"model": parameters[0], **parameters[1]}
    return dict(parameters) if isinstance(parameters, dict) else {"point": parameters}


def _shown(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    return html.escape(line(str(value)))
