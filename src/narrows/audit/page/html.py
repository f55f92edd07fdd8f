"""An audit's report as one page that loads nothing, light and dark, on a phone as on a desk."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from narrows.audit.page import figures
from narrows.durable import write_whole
from narrows.pages.page import Json, render

_LEVELS = {"explained": "protected", "nothing scored": "uncertain"}
_TITLES = {
    "kinds": ("What stays charged", "Bits by kind, behind the audit."),
    "worst": ("The dearest answers, token by token", "Numbered as in the table below."),
    "histogram": ("Segments by their charge", "Those that were drawn."),
    "positions": ("Gaps by position", "Mean charge of a token by its place in the answer."),
    "bound": (
        "The bound against the truth",
        "Bits of the segments in the bound; the truth as the drawn ones let it be estimated.",
    ),
}


def _tiles(found: dict[str, Any]) -> list[dict[str, str]]:
    upper, net = found["unexplained_bits_upper_95"], found["net_over_raw"]
    low = None if upper is None else max(0.0, 2 * found["unexplained_bits"] - upper)
    between = "" if low is None else f"90 %: {low:.4f} – {upper:.4f}"
    return [
        {
            "label": "Unexplained bits a token",
            "value": f"{found['unexplained_bits']:.4f}",
            "range": between,
        },
        {
            "label": "Tokens off the winner",
            "value": f"{100 * found['off_argmax']:.2f} %",
            "range": f"of {found['tokens']:,}",
        },
        {
            "label": "Net ÷ raw",
            "value": "–" if net is None else f"{net:.3f}",
            "range": f"{found['credit_bytes']:,} bytes to credit",
        },
        {
            "label": "Alarm",
            "value": "raised" if found["alarm"] else "none",
            "range": f"evidence {found['evidence_bits']:.1f} bits",
        },
    ]


def _warnings(found: dict[str, Any]) -> list[str]:
    rows = [f"not scored: {why} ({count:,})" for why, count in found["not_scored"].items()]
    rows += [f"from here on: {why} ({count:,})" for why, count in found["link_faults"].items()]
    if found["tape_pending_bytes"]:
        rows.append(f"the tape ends inside a record ({found['tape_pending_bytes']:,} bytes)")
    return [_plain(row) for row in rows]


def _plain(text: str) -> str:
    """Without what would turn a line around or hide in it."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def render_html(found: dict[str, Any]) -> str:
    """The page of a report as ``read_report`` or ``report`` has it. Raises InputError where
    plotly is not installed."""
    drawn = {
        "kinds": figures.kinds_figure(found),
        "worst": figures.worst_figure(found),
        "histogram": figures.histogram_figure(found),
        "positions": figures.position_figure(found),
        "bound": figures.bound_figure(found),
    }
    kept: Json = {name: figure for name, figure in drawn.items() if figure is not None}
    charts = [
        {"id": name, "title": _TITLES[name][0], "caption": _TITLES[name][1], "legend": []}
        for name in kept
    ]
    state = _plain(found["state"])
    worst = [
        {
            "number": number,
            "bits": f"{one['bits_per_token']:.3f}",
            "tokens": one["tokens"],
            "place": f"{one['link']}, {one['answer']}, {one['segment']}",
            "prompt": _plain(one["prompt"]),
        }
        for number, one in enumerate(found["worst"], 1)
    ]
    template = (resources.files("narrows.audit.page") / "report.html.j2").read_text("utf-8")
    scorer = _plain(found["scorer"])
    return render(
        template,
        kept,
        title=f"{scorer}: audit",
        heading=f"Audit by {scorer}, share {found['share']:g}, {found['segments']:,} segments",
        footer="narrows audit.",
        verdict=f"{state[:1].upper()}{state[1:]}.",
        level=_LEVELS.get(state, "unprotectable"),
        tiles=_tiles(found),
        charts=charts,
        warnings=_warnings(found),
        worst=worst,
    )


def write_html(found: dict[str, Any], path: Path) -> None:
    """The page as a file. Raises InputError."""
    write_whole(path, render_html(found).encode())
