"""The five charts of an audit as plotly figures. No text of a report stands in them: plotly reads
some of HTML in its labels."""

from __future__ import annotations

from typing import Any

from narrows.audit.page.charges import by_kind
from narrows.pages.page import Json, layout

_COLORS = ("$danger", "$high", "$low", "$coupled", "$verified")


def _axis(title: str = "", **more: object) -> Json:
    return {
        "gridcolor": "$grid",
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        "title": {"text": title, "font": {"size": 12}},
        **more,
    }


def kinds_figure(found: dict[str, Any]) -> Json:
    """What each kind of bits still costs, behind the audit."""
    rows = by_kind(found)
    names, bits = [name for name, _ in rows], [value for _, value in rows]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": bits,
        "y": names,
        "marker": {"color": ["$danger" if name == "tokens" else "$low" for name in names]},
        "hovertemplate": "%{y}: %{x:,.0f} bits<extra></extra>",
    }
    rows_axis = _axis(type="category", autorange="reversed", showgrid=False)
    return {
        "data": [bars],
        "layout": layout(90 + 42 * len(rows), xaxis=_axis("bits"), yaxis=rows_axis),
    }


def worst_figure(found: dict[str, Any]) -> Json | None:
    """Charge of each token over the dearest segments, one on another's height."""
    worst = [one for one in found["worst"] if one.get("charges")][: len(_COLORS)]
    if not worst:
        return None
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": list(range(len(one["charges"]))),
            "y": one["charges"],
            "line": {"color": color, "width": 1.6, "shape": "hv"},
            "name": f"{number}",
            "hovertemplate": f"answer {number}, token %{{x}}: %{{y:.2f}} bits<extra></extra>",
        }
        for number, (one, color) in enumerate(zip(worst, _COLORS, strict=False), 1)
    ]
    return {
        "data": traces,
        "layout": layout(
            320,
            margin={"l": 8, "r": 12, "t": 8, "b": 60},
            xaxis=_axis("token of the segment"),
            yaxis=_axis("bits", rangemode="tozero"),
            showlegend=len(traces) > 1,
            legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        ),
    }


def histogram_figure(found: dict[str, Any]) -> Json | None:
    """How many segments cost how much a token."""
    bins = found.get("histogram") or []
    if not any(count for _, count in bins):
        return None
    names = [f"≤ {edge:g}" if edge is not None else "more" for edge, _ in bins]
    bars = {
        "type": "bar",
        "x": names,
        "y": [count for _, count in bins],
        "marker": {"color": "$low"},
        "hovertemplate": "%{x} bits a token: %{y:,} segments<extra></extra>",
    }
    x = _axis("bits a token", type="category", tickangle=-45, showgrid=False)
    return {"data": [bars], "layout": layout(320, xaxis=x, yaxis=_axis("segments"))}


def position_figure(found: dict[str, Any]) -> Json | None:
    """Mean charge of a token by its place in the answer."""
    rows = sorted((int(place), bits) for place, bits in found["by_position"].items())
    if not rows:
        return None
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [place for place, _ in rows],
        "y": [bits for _, bits in rows],
        "line": {"color": "$audited", "width": 2},
        "hovertemplate": "from token %{x}: %{y:.4f} bits<extra></extra>",
    }
    y = _axis("bits a token", rangemode="tozero")
    return {"data": [line], "layout": layout(280, xaxis=_axis("token of the answer"), yaxis=y)}


def bound_figure(found: dict[str, Any]) -> Json | None:
    """The bound and what the drawn segments say, after so many segments."""
    points = found.get("over_time") or []
    if len(points) < 2:
        return None
    segments = [point[0] for point in points]
    rows = (("bound", 2, "$ink", "dash"), ("truth, as drawn", 1, "$audited", "solid"))
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": segments,
            "y": [point[at] for point in points],
            "line": {"color": color, "width": 2, "dash": dash},
            "name": name,
            "hovertemplate": f"{name} after %{{x:,}}: %{{y:,.0f}} bits<extra></extra>",
        }
        for name, at, color, dash in rows
    ]
    return {
        "data": traces,
        "layout": layout(
            320,
            margin={"l": 8, "r": 12, "t": 8, "b": 60},
            xaxis=_axis("segments", rangemode="tozero"),
            yaxis=_axis("bits", rangemode="tozero"),
            showlegend=True,
            legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        ),
    }
