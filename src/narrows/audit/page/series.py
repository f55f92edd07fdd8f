"""What the pictures of a report need, collected while an audit runs; bounded whatever its length.

``histogram``: drawn segments by their charge a token. ``over_time``: after so many segments, the
cost of those in the bound as the drawn ones let it be estimated (their sum over f), and the bound.
"""

from __future__ import annotations

import bisect
from typing import Any

from narrows.audit.auditor import Drawn, TapeAuditor
from narrows.audit.code import ONE_BIT

EDGES_BITS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
"""Upper edges of the histogram; one more bin is open above."""
MAX_POINTS = 256


class Series:
    """``drawn`` is an auditor's ``on_drawn``; ``follow`` names that auditor before it starts."""

    def __init__(self) -> None:
        self._counts = [0] * (len(EDGES_BITS) + 1)
        self._points: list[list[float]] = []
        self._every = 1
        self._seen = 0
        self._sum_q16 = 0
        self._auditor: TapeAuditor | None = None

    def follow(self, auditor: TapeAuditor) -> None:
        self._auditor = auditor

    def drawn(self, one: Drawn) -> None:
        bits = (one.cost_q16 if one.audit_q16 is None else one.audit_q16) / ONE_BIT
        self._counts[bisect.bisect_left(EDGES_BITS, bits / max(1, one.tokens))] += 1
        if self._seen % self._every == 0 and self._auditor is not None:
            self._point(self._auditor, self._auditor.tally.segments - 1)
        self._seen += 1
        if not one.always:
            self._sum_q16 += one.cost_q16

    def _point(self, auditor: TapeAuditor, segments: int) -> None:
        """Where it stood after so many. Every other point goes when there are too many."""
        estimate = self._sum_q16 / ONE_BIT / auditor.rules.share
        self._points.append([segments, round(estimate, 1), round(auditor.bound_bits(), 1)])
        if len(self._points) >= MAX_POINTS:
            self._points = self._points[::2]
            self._every *= 2

    def found(self) -> dict[str, Any]:
        """Two keys of the report, with the last moment."""
        if self._auditor is not None:
            self._point(self._auditor, self._auditor.tally.segments)
        edges = [*EDGES_BITS, None]
        return {
            "histogram": [list(pair) for pair in zip(edges, self._counts, strict=True)],
            "over_time": self._points,
        }


def about(auditor: TapeAuditor) -> dict[str, Any]:
    """What ``narrows plan --from-audit`` asks of the audited model. All that a scorer loads today
    is dense; not every one knows its size."""
    return {"parameters": getattr(auditor.scorer, "parameters", None), "kind": "dense"}
