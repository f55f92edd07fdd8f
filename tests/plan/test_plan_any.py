"""Any valid scenario, however odd, gets a whole report: numbers, text, figures, JSON."""

from __future__ import annotations

import io
import json
import math

import plotly.graph_objects as go
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from narrows.plan.analysis import analyse, as_json
from narrows.plan.report import figures
from narrows.plan.report.text import render
from narrows.plan.scenario import build

_SHARES = ["0%", "1%..50%", "40%..100%", "100%"]
_ABOVE = ["0.001%", "5%..60%", "100%"]
_MODELS = [
    {"parameters": "1"},
    {"parameters": "405B", "training_tokens": "1T..20T"},
    {"weights": "1 B"},
    {"weights": "100 PB", "parameters": "1T..9T"},
]
_DEMANDS = [
    {"tokens_per_day": "1"},
    {"tokens_per_day": "1e15..1e18"},
    {"text_per_day": "1 B/day"},
    {"users": "1..1B", "tokens_per_user_per_day": "1..1M"},
    {"revenue": "$1/year", "price": "$1/Mtoken"},
    {"requests_per_day": "1/year", "bytes_per_request": "1 bit"},
    {},
]
_REST = {
    "internal_share": _SHARES,
    "hidden_share": _SHARES,
    "output_share": _ABOVE,
    "lifetime": ["1 s", "1 day..1 year", "100 years"],
    "growth": ["1x/year", "0.01x/year", "1..50x/year", "-50%/year"],
    "busy_day": ["1", "1.1..90"],
    "coding": ["raw", "compressed", "coupled"],
    "verification": ["true", "false"],
    "extractable": _ABOVE,
    "coupled": ["0.0001 bits/token", "1..9000 bits/token"],
    "weight_compression": ["1", "1..1000", "10000"],
    "useful_fraction": _ABOVE,
    "usable_share": _ABOVE,
    "response_time": ["0 days", "1 s", "1 h..9 days", "100 years"],
    "burst": ["1", "1440"],
    "lifetime_cap": ["1 B", "1 PB"],
    "headroom": ["0%", "10000%"],
    "serve": ["p50", "p95", "p99"],
}
_ACCOUNTS = {"accounts": "1..9", "bytes_per_account": "1 B/day", "steganography_share": "1%"}


def plain(value: object) -> object:
    if isinstance(value, str):
        return "#123456" if value.startswith("$") else value
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    assert not isinstance(value, float) or math.isfinite(value)
    return value


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(_MODELS),
    st.sampled_from(_DEMANDS),
    st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in _REST.items()}),
    st.booleans(),
    st.sampled_from([None, "1 B/day", "1 GB..9 TB/day"]),
)
def test_any_valid_scenario_is_reported_whole(
    model: dict[str, str],
    demand: dict[str, str],
    rest: dict[str, str],
    through_accounts: bool,
    cap: str | None,
) -> None:
    flags = {**model, **demand, **rest, **(_ACCOUNTS if through_accounts else {})}
    if cap or not demand:
        flags["cap"] = cap or "1 GB/day"
    plan = analyse(build(None, None, flags), 60)
    report = json.loads(json.dumps(as_json(plan), allow_nan=False))
    for coding, chance in report["theft_probability"].items():
        assert 0 <= chance <= 1, coding
    assert sum(driver["share"] for driver in report["drivers"]) < 1 + 1e-9
    out = io.StringIO()
    render(plan, Console(file=out, width=80))
    assert out.getvalue().split(" ")[0] in ("PROTECTED", "NOT", "CANNOT")
    drawn = [
        figures.fan_figure(plan),
        figures.exceedance_figure(plan),
        figures.waterfall_figure(plan),
        figures.tornado_figure(plan),
    ]
    for figure in drawn:
        if figure is not None:
            go.Figure(plain(figure))
