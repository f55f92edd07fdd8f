"""``report.html``: the forecast with its pictures in one file that loads nothing."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from narrows.durable import write_whole
from narrows.pages.page import render
from narrows.plan import show
from narrows.plan.analysis import Plan
from narrows.plan.budget import as_toml
from narrows.plan.distribution import Number
from narrows.plan.report import figures
from narrows.plan.report.text import input_text, range_text
from narrows.plan.simulate import DAYS, SENT, median, theft_probability

_LEFT = {
    "verified": "What a verifier cannot explain",
    "audited": "What an auditor cannot explain",
}


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
    leaves = _LEFT.get(deployed, "What leaves")
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
    for coding, outcome in result.outcomes.items():
        rows.append(
            {
                "coding": coding,
                "deployed": coding == result.deployed,
                "outflow": _pair(outcome.outflow, show.size),
                "ratio": show.factor(median(outcome.outflow / result.weights)),
                "caps": []
                if coding not in SENT  # sent as the deployed coding, under its cap
                else [(day, *_pair(outcome.caps[day], show.size)) for day in DAYS],
                "break_even": show.three(median(plan.break_even[coding]))
                if plan.break_even is not None
                else "",
                "days": _pair(outcome.days, show.days),
                "stolen": show.share(theft_probability(result, coding)),
            }
        )
    return rows


def _audit(plan: Plan) -> dict[str, object] | None:
    if plan.audit is None:
        return None
    audit = plan.audit
    parts = [(kind, show.three(bits) + audit.mark) for kind, bits in audit.bits.items()]
    return {
        "share": show.share(audit.share),
        "rows": [
            *parts,
            ("in all", show.three(audit.total_bits) + audit.mark),
            ("protected up to", show.three(audit.most_bits)),
            ("in half of the futures up to", show.three(audit.even_bits)),
        ],
        "note": audit.footnote,
    }


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
    template = (resources.files("narrows.plan.report") / "report.html.j2").read_text("utf-8")
    charts, drawn = _charts(plan)
    result = plan.forecast
    lasts = show.days(plan.budget.lasts_days)
    return render(
        template,
        drawn,
        title=f"{result.scenario.name}: forecast",
        heading=result.scenario.description or result.scenario.name,
        footer=f"narrows plan, {result.draws:,} futures, seed {result.seed}.",
        verdict=plan.verdict.line,
        level=plan.verdict.level,
        tiles=_tiles(plan),
        notes=plan.notes,
        charts=charts,
        rows=_rows(plan),
        audit=_audit(plan),
        deployed=result.deployed.capitalize(),
        break_even=plan.break_even is not None,
        draws=f"{result.draws:,}",
        budget=as_toml(plan.budget),
        budget_note=f"Ready to propose; lasts {lasts} at the median demand.",
        inputs=_inputs(plan),
        sources=result.scenario.sources,
    )


def write_html(plan: Plan, path: Path) -> None:
    """The report as a file. Raises InputError."""
    write_whole(path, render_html(plan).encode())
