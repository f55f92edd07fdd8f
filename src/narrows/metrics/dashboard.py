"""A Grafana dashboard over the metrics of the list: what matters on top, then all of them by role.

Grafana's import asks which Prometheus it reads from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from narrows.metrics.table import COUNTER, HISTOGRAM, METRICS, Metric

SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
WIDE, HIGH = 24, 8
_UNITS = {"bytes": "decbytes", "seconds": "s", "ratio": "none", "": "none"}
_HEADLINES: tuple[tuple[str, str, str, str], ...] = (
    ("Budget left", "narrows_budget_left_bytes", "{{lineage}}", "decbytes"),
    ("Window left", "narrows_budget_window_left_bytes", "{{lineage}} {{window}}", "decbytes"),
    ("Net budget left", "narrows_net_left_bytes", "{{lineage}}", "decbytes"),
    (
        "Leaves the gate",
        "sum by (port) (rate(narrows_gate_sent_bytes_total[$__rate_interval])"
        " + rate(narrows_gate_timing_bytes_total[$__rate_interval]))",
        "{{port}}",
        "Bps",
    ),
    (
        "Text bytes for a link byte",
        "sum(rate(narrows_answer_text_bytes_total[1h]))"
        " / sum(rate(narrows_answer_link_bytes_total[1h]))",
        "",
        "none",
    ),
    (
        "Bits a token",
        "8 * sum by (coding) (rate(narrows_answer_link_bytes_total[1h]))"
        " / sum by (coding) (rate(narrows_answer_tokens_total[1h]))",
        "{{coding}}",
        "none",
    ),
    (
        "First token, 95 %",
        "histogram_quantile(0.95,"
        " sum by (le) (rate(narrows_first_token_seconds_bucket[$__rate_interval])))",
        "",
        "s",
    ),
    (
        "Errors by code",
        "sum by (code) (rate(narrows_request_errors_total[$__rate_interval]))",
        "{{code}}",
        "reqps",
    ),
    ("Roles", "narrows_role_up", "{{role}}", "none"),
)


def dashboard_json() -> str:
    """A file for Grafana's import (schema 39, Grafana 10 and later)."""
    panels = [
        _panel(number, title, [(expression, legend)], unit, place)
        for number, ((title, expression, legend, unit), place) in enumerate(
            zip(_HEADLINES, _grid(len(_HEADLINES), 0, 3), strict=True), 1
        )
    ]
    top = HIGH * -(-len(_HEADLINES) // 3)
    by_role: dict[str, list[Metric]] = {}
    for metric in METRICS:
        if not metric.per_key:
            by_role.setdefault(metric.role, []).append(metric)
    number = len(panels)
    for role, metrics in by_role.items():
        number += 1
        row = {"id": number, "type": "row", "title": role, "collapsed": True}
        inside = []
        for metric, place in zip(metrics, _grid(len(metrics), top + 1, 3), strict=True):
            number += 1
            inside.append(_panel_of(metric, number, place))
        place = {"x": 0, "y": top, "w": WIDE, "h": 1}
        panels.append(row | {"gridPos": place, "panels": inside})
        top += 1
    whole = {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "title": "narrows",
        "uid": "narrows",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"


def _panel_of(metric: Metric, number: int, place: dict[str, int]) -> dict[str, Any]:
    unit = _UNITS[metric.unit]
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    title = metric.name.removeprefix("narrows_").removesuffix("_total").replace("_", " ")
    if metric.kind == HISTOGRAM:
        by = ", ".join(("le", *metric.labels))
        inner = f"sum by ({by}) (rate({metric.name}_bucket[$__rate_interval]))"
        targets = [
            (f"histogram_quantile({share}, {inner})", f"{share} {legend}") for share in (0.5, 0.95)
        ]
    elif metric.kind == COUNTER:
        unit = {"decbytes": "Bps", "none": "cps"}.get(unit, "none")
        targets = [(f"rate({metric.name}[$__rate_interval])", legend)]
    else:
        targets = [(metric.name, legend)]
    return _panel(number, title, targets, unit, place) | {"description": metric.meaning}


def _panel(
    number: int,
    title: str,
    targets: Sequence[tuple[str, str]],
    unit: str,
    place: dict[str, int],
) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + at), "expr": expression, "legendFormat": legend or "all"}
            for at, (expression, legend) in enumerate(targets)
        ],
    }


def _grid(count: int, top: int, columns: int) -> list[dict[str, int]]:
    width = WIDE // columns
    return [
        {"x": at % columns * width, "y": top + at // columns * HIGH, "w": width, "h": HIGH}
        for at in range(count)
    ]
