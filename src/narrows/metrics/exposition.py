"""Values as Prometheus reads them: text form 0.0.4, in the order of the list."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from narrows.edge.books.figures import LATENCY_S
from narrows.metrics.table import BY_NAME, COUNTER, HISTOGRAM, METRICS, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Value:
    """One number of a metric of the list. ``labels``: a text for each of its labels; of a
    histogram also ``le``, and then only what is above the bucket below."""

    name: str
    number: float
    labels: Mapping[str, str]


def value(name: str, number: float, **labels: str) -> Value:
    return Value(name, float(number), labels)


def exposition(values: Iterable[Value]) -> bytes:
    """The body of a scrape. Values of unknown metrics, with other labels or no number are left
    out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Values(values))
    return generate_latest(registry)


def figures_count(body: bytes) -> int:
    """How many numbers a scrape has."""
    return sum(1 for line in body.splitlines() if not line.startswith(b"#"))


class _Values(Collector):
    def __init__(self, values: Iterable[Value]) -> None:
        self._found: dict[str, list[Value]] = defaultdict(list)
        for one in values:
            base = one.name.removesuffix("_sum")
            metric = BY_NAME.get(one.name) or BY_NAME.get(base)
            if metric is not None and _fits(one, metric):
                self._found[metric.name].append(one)

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            family = _family(metric, self._found.get(metric.name, []))
            if family.samples:
                yield family


def _fits(one: Value, metric: Metric) -> bool:
    bucket = metric.kind == HISTOGRAM and one.name == metric.name
    if one.name != metric.name and metric.kind != HISTOGRAM:
        return False
    labels = {*metric.labels, "le"} if bucket else set(metric.labels)
    return math.isfinite(one.number) and set(one.labels) == labels


def _family(metric: Metric, found: list[Value]) -> Family:
    if metric.kind == HISTOGRAM:
        return _histogram(metric, found)
    kind = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    totals: dict[tuple[str, ...], float] = {}
    for one in found:  # two of the same labels would make the whole scrape void
        totals[_place(metric, one)] = one.number
    for place, number in totals.items():
        family.add_metric(place, number)
    return family


def _histogram(metric: Metric, found: list[Value]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    buckets: dict[tuple[str, ...], dict[float, float]] = defaultdict(dict)
    sums: dict[tuple[str, ...], float] = {}
    for one in found:
        if one.name == metric.name:
            bound = _bound(one.labels["le"])
            if bound is not None:
                buckets[_place(metric, one)][bound] = one.number
        else:
            sums[_place(metric, one)] = one.number
    for place, counts in buckets.items():
        up_to, rows = 0.0, []
        for bound in sorted({*LATENCY_S, *counts, math.inf}):
            up_to += counts.get(bound, 0.0)
            rows.append(("+Inf" if bound == math.inf else str(bound), up_to))
        family.add_metric(place, rows, sums.get(place, 0.0))
    return family


def _place(metric: Metric, one: Value) -> tuple[str, ...]:
    return tuple(one.labels[label] for label in metric.labels)


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound
