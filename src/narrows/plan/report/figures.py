"""The four charts as plotly figures: plain JSON, no import of plotly.

Colours are names (``$compressed``, ``$grid`` …) that the page resolves from its style sheet, so
one figure serves light and dark. Time axes are logarithmic in days and labelled in words.
"""

from __future__ import annotations

import math

from narrows.pages.page import Json, layout
from narrows.plan import show
from narrows.plan.analysis import Plan
from narrows.plan.report.series import Bar, day_marks, exceedance, fan, tornado, waterfall_bars
from narrows.plan.simulate import median


def _time_axis(low: float, high: float, room: float = 1.6) -> Json:
    marks = day_marks(low / room, high * room, 5)
    return {
        "type": "log",
        "range": [math.log10(low / room), math.log10(high * room)],
        "tickvals": [day for day, _ in marks],
        "ticktext": [name for _, name in marks],
        "tickangle": 0,
        "gridcolor": "$grid",
        "zeroline": False,
        "fixedrange": True,
    }


def _size_axis(low: float, high: float) -> Json:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = max(1, len(exponents) // 5)
    marks = [10.0**e for e in exponents if (e - exponents[0]) % stride == 0]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": marks,
        "ticktext": [show.size(mark) for mark in marks],
        "gridcolor": "$grid",
        "zeroline": False,
        "fixedrange": True,
    }


def _line(x: list[float], y: list[float], color: str, name: str, **more: object) -> Json:
    line = {"color": color, "width": 2, **more}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "name": name}


def _words(name: str, x: list[float], y: list[str]) -> Json:
    """Hover text, and nothing drawn twice."""
    return {"hovertemplate": f"{name}<br>%{{text}}<extra></extra>", "text": y, "x": x}


def fan_figure(plan: Plan) -> Json:
    """Cumulative outflow against the weights and the cap."""
    data = fan(plan)
    color = f"${data.coding}"
    low_band, q1, middle, q3, high_band = data.bands
    text = [
        f"after {show.days(day)}: {show.size(mid)} ({show.between(show.size(a), show.size(b))})"
        for day, a, mid, b in zip(data.days, low_band, middle, high_band, strict=True)
    ]

    def band(lower: list[float], upper: list[float], opacity: float) -> Json:
        return {
            "type": "scatter",
            "mode": "lines",
            "x": [*data.days, *reversed(data.days)],
            "y": [*upper, *reversed(lower)],
            "fill": "toself",
            "fillcolor": f"{color}@{opacity}",
            "line": {"width": 0},
            "hoverinfo": "skip",
        }

    ends = [data.days[0], data.days[-1]]
    target_band = band([data.target[0]] * len(data.days), [data.target[2]] * len(data.days), 0)
    traces = [
        target_band | {"fillcolor": "$danger@0.12"},
        band(low_band, high_band, 0.18),
        band(q1, q3, 0.28),
        _line(ends, [data.target[1]] * 2, "$danger", "thief needs", dash="dot")
        | {"hoverinfo": "skip"},
        _line(ends, [data.weights] * 2, "$ink", "weights") | {"hoverinfo": "skip"},
        _line(data.days, data.cap, "$muted", "cap", dash="dash") | {"hoverinfo": "skip"},
        _line(data.days, middle, color, data.coding) | _words("leaves", data.days, text),
    ]
    low = min(low_band[0], data.target[0]) / 3
    high = max(high_band[-1], data.weights, data.cap[-1]) * 6
    top = max(high_band[-1], data.cap[-1])
    x_mid = math.log10(data.days[len(data.days) // 2])
    left, right = math.log10(data.days[0]), math.log10(data.days[-1])
    needs = math.log10(data.target[1])
    notes = [
        _label(right, math.log10(top), "cap, used in full", "$muted", "right"),
        _label(
            x_mid,
            math.log10(low_band[len(data.days) // 2]),
            "unexplained" if data.coding in ("verified", "audited") else "answers",
            color,
            "left",
            "top",
        ),
        _label(left, needs, "what a thief needs", "$danger", above="top"),
        _label(left, math.log10(data.weights), "all weights", "$ink"),
    ]
    return {
        "data": traces,
        "layout": layout(
            380,
            xaxis=_time_axis(data.days[0], data.days[-1], 1.0),
            yaxis=_size_axis(low, high) | {"automargin": True},
            annotations=notes,
        ),
    }


def _label(
    x: float, y: float, text: str, color: str, side: str = "left", above: str = "bottom"
) -> Json:
    return {
        "x": x,
        "y": y,
        "text": text,
        "showarrow": False,
        "xanchor": side,
        "yanchor": above,
        "font": {"color": color, "size": 12},
    }


def exceedance_figure(plan: Plan) -> Json:
    """Share of the futures in which a theft takes longer than so many days."""
    curves = exceedance(plan)
    deployed = plan.forecast.deployed
    life = median(plan.forecast.inputs["demand.lifetime"])
    traces = []
    for coding, (days, shares) in curves.items():
        text = [
            f"over {show.days(day)} in {share * 100:.0f} % of the futures"
            for day, share in zip(days, shares, strict=True)
        ]
        wide = {"width": 3.5} if coding == deployed else {"width": 2}
        percent = [share * 100 for share in shares]
        traces.append(
            _line(days, percent, f"${coding}", coding, **wide) | _words(coding, days, text)
        )
    every = [
        day
        for days, shares in curves.values()
        for day, share in zip(days, shares, strict=True)
        if share > 0.02  # the last futures would stretch the axis by centuries
    ]
    low, high = min([*every, life]), max([*every, life])
    shape = {
        "type": "line",
        "x0": life,
        "x1": life,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": "$muted", "width": 1.5, "dash": "dash"},
    }
    side = "right" if life > math.sqrt(low * high) else "left"
    notes = [_label(math.log10(life), 101, " the model's life ", "$muted", side)]
    return {
        "data": traces,
        "layout": layout(
            360,
            margin={"l": 8, "r": 12, "t": 26, "b": 60},
            xaxis=_time_axis(low, high, 1.3),
            yaxis={
                "range": [0, 108],
                "tickvals": [0, 25, 50, 75, 100],
                "ticktext": ["0", "25 %", "50 %", "75 %", "100 %"],
                "gridcolor": "$grid",
                "zeroline": False,
                "fixedrange": True,
                "automargin": True,
            },
            shapes=[shape],
            annotations=notes,
            showlegend=True,
            legend={"orientation": "h", "x": 0, "y": -0.14, "yanchor": "top"},
        ),
    }


def _bar_row(bar: Bar, color: str) -> Json:
    low, high = sorted((bar.start, bar.end))
    width = {"width": 22 if high > low else 0}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [low, high],
        "y": [bar.label, bar.label],
        "line": {"color": color, **width},
        "hovertemplate": f"{bar.label}: {bar.text}<extra></extra>",
    }


def waterfall_figure(plan: Plan) -> Json:
    """What each measure buys, one on top of the other."""
    bars = waterfall_bars(plan)
    colors = {
        "compress answers": "$compressed",
        "couple sampling": "$coupled",
        "verify answers": "$verified",
        "audit answers": "$audited",
        "upload limit": "$raw",
    }
    traces = []
    for bar in bars:
        color = colors.get(bar.label, "$muted")
        traces.append(_bar_row(bar, color if bar.deployed else f"{color}@0.45"))
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [bar.end for bar in bars],
            "y": [bar.label for bar in bars],
            "marker": {"color": "$ink", "size": 7, "symbol": "line-ns-open"},
            "hoverinfo": "skip",
        }
    )
    low = min(min(bar.start, bar.end) for bar in bars)
    high = max(max(bar.start, bar.end) for bar in bars)
    return {
        "data": traces,
        "layout": layout(
            70 + 58 * len(bars),
            margin={"l": 8, "r": 14, "t": 14, "b": 40},
            xaxis=_time_axis(low, high, 2.2),
            yaxis=_rows([bar.label for bar in bars]),
            annotations=[_row_label(bar.label, bar.text, low) for bar in bars],
        ),
    }


def _rows(labels: list[str]) -> Json:
    """A category axis whose names stand above the bars, where a phone has room for them."""
    return {
        "type": "category",
        "categoryarray": list(reversed(labels)),
        "range": [-0.6, len(labels) - 0.35],
        "showticklabels": False,
        "fixedrange": True,
        "showgrid": False,
    }


def _row_label(row: str, text: str, low: float) -> Json:
    return {
        "xref": "paper",
        "x": 0,
        "y": row,
        "yshift": 23,
        "text": f"<b>{row}</b>  {text}",
        "bgcolor": "$card",
        "showarrow": False,
        "xanchor": "left",
        "font": {"size": 12.5, "color": "$ink"},
    }


def tornado_figure(plan: Plan) -> Json | None:
    """Theft time at each input's low and high value, all else at the median."""
    drawn = tornado(plan)
    rows, middle = drawn.rows, drawn.center
    if not rows:
        return None
    traces, notes = [], []
    for label, at_low, at_high, low_text, high_text in rows:
        for end, value, color in ((at_low, low_text, "$low"), (at_high, high_text, "$high")):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [middle, end],
                    "y": [label, label],
                    "line": {"color": color, "width": 20},
                    "hovertemplate": f"{label} = {value}: {show.days(end)}<extra></extra>",
                }
            )
        notes.append(_row_label(label, show.between(low_text, high_text), middle))
    ends = [end for _, a, b, _, _ in rows for end in (a, b)]
    shape = {
        "type": "line",
        "x0": middle,
        "x1": middle,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": "$muted", "width": 1.5},
    }
    return {
        "data": traces,
        "layout": layout(
            70 + 56 * len(rows),
            margin={"l": 8, "r": 14, "t": 14, "b": 40},
            xaxis=_time_axis(min(*ends, middle), max(*ends, middle), 1.5),
            yaxis=_rows([row[0] for row in rows]),
            annotations=notes,
            shapes=[shape],
        ),
    }
