"""``report.html``: the forecast with its pictures in one file that loads nothing.

The page carries plotly's script inside and a Content-Security-Policy that forbids any request.
Everything that a scenario wrote is escaped, in text by the template and in the script by hand.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from narrows.durable import write_whole
from narrows.errors import InputError
from narrows.plan import show
from narrows.plan.analysis import Plan
from narrows.plan.budget import as_toml
from narrows.plan.distribution import Number
from narrows.plan.report import figures
from narrows.plan.report.text import input_text, range_text
from narrows.plan.simulate import CODINGS, DAYS, median, theft_probability


def _script(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _pair(values: Number, words: object) -> tuple[str, str]:
    write = words if callable(words) else str
    return write(median(values)), range_text(values, write)


def _tiles(plan: Plan) -> list[dict[str, str]]:
    result = plan.forecast
    outcome = result.outcomes[result.deployed]
    carrier = result.outcomes[result.carrier]
    rows = (
        ("A theft takes", outcome.days, show.days),
        ("What a thief needs", result.target, show.size),
        ("Leaves in its life", carrier.outflow, show.size),
        ("Cap per day", carrier.cap, show.size),
    )
    tiles = []
    for label, values, words in rows:
        value, spread = _pair(values, words)
        tiles.append({"label": label, "value": value, "range": spread})
    return tiles


def _charts(plan: Plan) -> tuple[list[dict[str, object]], dict[str, object]]:
    deployed = plan.forecast.deployed
    leaves = "What a verifier cannot explain" if deployed == "verified" else "What leaves"
    bands = "The bands hold half and nine tenths of the futures; both axes are logarithmic."
    described = [
        ("fan", figures.fan_figure(plan), f"{leaves}, against the weights", bands, []),
        (
            "exceedance",
            figures.exceedance_figure(plan),
            "How long a theft takes",
            "The share of the futures in which it takes longer. "
            f"{deployed.capitalize()} is deployed.",
            [],
        ),
        (
            "waterfall",
            figures.waterfall_figure(plan),
            "What each measure buys",
            "Median theft time for the same tokens a day, each measure on top of those above it. "
            "Pale: not deployed.",
            [],
        ),
        (
            "tornado",
            figures.tornado_figure(plan),
            "Which inputs decide",
            "Theft time with one input at each end of its range, all others at their median.",
            [{"color": "low", "text": "low end"}, {"color": "high", "text": "high end"}],
        ),
    ]
    kept = [chart for chart in described if chart[1] is not None]
    charts: list[dict[str, object]] = [
        {"id": name, "title": title, "caption": caption, "legend": keys}
        for name, _, title, caption, keys in kept
    ]
    return charts, {chart[0]: chart[1] for chart in kept}


def _rows(plan: Plan) -> list[dict[str, object]]:
    result = plan.forecast
    rows = []
    for coding in CODINGS:
        outcome = result.outcomes[coding]
        rows.append(
            {
                "coding": coding,
                "deployed": coding == result.deployed,
                "outflow": _pair(outcome.outflow, show.size),
                "ratio": show.factor(median(outcome.outflow / result.weights)),
                "caps": []
                if coding == "verified"  # sent as the deployed coding, under its cap
                else [(day, *_pair(outcome.caps[day], show.size)) for day in DAYS],
                "break_even": show.three(median(plan.break_even[coding]))
                if plan.break_even is not None
                else "",
                "days": _pair(outcome.days, show.days),
                "stolen": show.share(theft_probability(result, coding)),
            }
        )
    return rows


def _inputs(plan: Plan) -> list[dict[str, str]]:
    scenario = plan.forecast.scenario
    return [
        {
            "path": path,
            "low": input_text(path, dist.p5),
            "high": "" if dist.fixed else input_text(path, dist.p95),
            "kind": ("" if dist.fixed else dist.kind)
            + ("" if path in scenario.given else " (default)"),
        }
        for path, dist in scenario.numbers.items()
    ]


def render_html(plan: Plan) -> str:
    """The page, about 5 MB of which all but 50 kB is plotly's script. Raises InputError where
    plotly is not installed."""
    import jinja2

    try:
        plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise InputError("the report needs plotly", "pip install plotly") from error
    template = (resources.files("narrows.plan.report") / "report.html.j2").read_text("utf-8")
    charts, drawn = _charts(plan)
    result = plan.forecast
    lasts = show.days(plan.budget.lasts_days)
    return (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(
            name=result.scenario.name,
            description=result.scenario.description,
            verdict=plan.verdict.line,
            level=plan.verdict.level,
            tiles=_tiles(plan),
            notes=plan.notes,
            charts=charts,
            rows=_rows(plan),
            deployed=result.deployed.capitalize(),
            break_even=plan.break_even is not None,
            draws=f"{result.draws:,}",
            seed=result.seed,
            budget=as_toml(plan.budget),
            budget_note=f"Ready to propose; lasts {lasts} at the median demand.",
            inputs=_inputs(plan),
            sources=result.scenario.sources,
            figures=_script(drawn),
            plotly=plotly,
        )
    )


def write_html(plan: Plan, path: Path) -> None:
    """The report as a file. Raises InputError."""
    write_whole(path, render_html(plan).encode())
