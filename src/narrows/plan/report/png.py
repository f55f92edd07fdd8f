"""``--png``: the same four pictures as one image, drawn by matplotlib (the ``plots`` extra).

plotly writes images only through a browser that it downloads; matplotlib needs none. It draws
into memory, so no display is wanted either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from narrows.errors import InputError, missing_extra
from narrows.plan import show
from narrows.plan.analysis import Plan
from narrows.plan.report.series import day_marks, exceedance, fan, tornado, waterfall_bars
from narrows.plan.simulate import median

_COLORS = {
    "raw": "#b4552d",
    "compressed": "#2a6bb0",
    "coupled": "#13856a",
    "verified": "#7a4cb8",
    "audited": "#a8327e",
    "danger": "#c0293c",
    "ink": "#1d2125",
    "muted": "#6a7178",
    "low": "#2a6bb0",
    "high": "#c98512",
}
_MEASURES = {
    "upload limit": "raw",
    "compress answers": "compressed",
    "couple sampling": "coupled",
    "verify answers": "verified",
    "audit answers": "audited",
}


def _time_axis(axes: Any) -> None:
    axes.set_xscale("log")
    axes.grid(axis="x", color="#e3e4e0", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _name_times(axes: Any) -> None:
    """Marks at round durations, once the axis knows its ends."""
    low, high = axes.get_xlim()
    marks = day_marks(low, high, 6)
    axes.set_xticks([day for day, _ in marks], [name for _, name in marks])
    axes.set_xticks([], minor=True)


def _fan(axes: Any, plan: Plan) -> None:
    from matplotlib.ticker import FuncFormatter

    data = fan(plan)
    color = _COLORS[data.coding]
    low, q1, middle, q3, high = data.bands
    _time_axis(axes)
    axes.set_yscale("log")
    axes.axhspan(data.target[0], data.target[2], color=_COLORS["danger"], alpha=0.1, linewidth=0)
    axes.fill_between(data.days, low, high, color=color, alpha=0.18, linewidth=0)
    axes.fill_between(data.days, q1, q3, color=color, alpha=0.28, linewidth=0)
    axes.plot(data.days, middle, color=color, label=f"{data.coding} answers")
    axes.plot(data.days, data.cap, "--", color=_COLORS["muted"], label="cap, used in full")
    axes.axhline(data.weights, color=_COLORS["ink"], label="all weights")
    axes.axhline(data.target[1], color=_COLORS["danger"], ls=":", label="what a thief needs")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show.size(value)))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title("What leaves, against the weights")


def _exceedance(axes: Any, plan: Plan) -> None:
    _time_axis(axes)
    for coding, (days, shares) in exceedance(plan).items():
        width = 3 if coding == plan.forecast.deployed else 1.6
        percent = [share * 100 for share in shares]
        axes.plot(days, percent, color=_COLORS[coding], linewidth=width, label=coding)
    life = median(plan.forecast.inputs["demand.lifetime"])
    axes.axvline(life, color=_COLORS["muted"], linestyle="--", linewidth=1.2, label="life")
    axes.set_ylim(0, 104)
    axes.set_ylabel("futures in which it takes longer, %", fontsize=8)
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=len(plan.forecast.outcomes) + 1,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
    )
    axes.set_title("How long a theft takes")


def _waterfall(axes: Any, plan: Plan) -> None:
    _time_axis(axes)
    bars = waterfall_bars(plan)
    for row, bar in enumerate(bars):
        color = _COLORS[_MEASURES.get(bar.label, "muted")]
        axes.plot(
            [bar.start, bar.end],
            [row, row],
            color=color,
            linewidth=12,
            alpha=1.0 if bar.deployed else 0.45,
            solid_capstyle="butt",
        )
        axes.annotate(bar.text, (min(bar.start, bar.end), row - 0.25), fontsize=8)
    axes.plot([bar.end for bar in bars], range(len(bars)), "|", color=_COLORS["ink"], ms=12)
    axes.margins(x=0.15)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.8)
    axes.set_title("What each measure buys (pale: not deployed)")


def _tornado(axes: Any, plan: Plan) -> None:
    _time_axis(axes)
    drawn = tornado(plan)
    rows, middle = drawn.rows, drawn.center
    for row, (_, low, high, _, _) in enumerate(rows):
        for end, color in ((low, "low"), (high, "high")):
            axes.plot(
                [middle, end],
                [row, row],
                color=_COLORS[color],
                linewidth=14,
                solid_capstyle="butt",
            )
    labels = [f"{label}\n{show.between(low, high)}" for label, _, _, low, high in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.margins(x=0.05)
    axes.set_title("Which inputs decide (blue: low end, amber: high end)")


def write_png(plan: Plan, path: Path) -> None:
    """Draw the forecast into a PNG of 1,600 × 1,200 pixels. Raises InputError without
    matplotlib or where the file cannot be written."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra("--png needs matplotlib", "plots") from error
    figure = Figure(figsize=(16, 12), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plan.forecast.scenario.description or plan.forecast.scenario.name)
    drawers = (_fan, _exceedance, _waterfall, _tornado)
    for axes, draw in zip(figure.subplots(2, 2).flat, drawers, strict=True):
        draw(axes, plan)
        _name_times(axes)
    try:
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
