"""What the enclave says of itself through its telemetry link: numbers that an attacker wrote.

Only names of a closed set are taken, whole or not they are numbers from 0 to ``MAX_NUMBER``, and
they leave with everything else, at the exporter's moments. Every byte of the link is charged to
the account of its port, and the port has one reader: ``narrows telemetry`` waits meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable

from narrows.errors import NarrowsError
from narrows.metrics.exposition import Value, value

log = logging.getLogger("narrows.metrics")
MARK = " figures {"
MAX_NUMBER = 2.0**53
FRESH_S = 600.0
AGAIN_S = 10.0
_PLAIN = {
    "links": "narrows_enclave_links",
    "links_served": "narrows_enclave_links_opened_total",
    "upstream_probes": "narrows_enclave_upstream_probes_total",
}
_CODINGS = ("coupled", "plain", "text")
_DOES = ("ids", "coupled", "tools", "formats")
KNOWN = {
    **{name: (metric, {}) for name, metric in _PLAIN.items()},
    **{f"answers_{one}": ("narrows_enclave_answers_total", {"coding": one}) for one in _CODINGS},
    **{f"upstream_{one}": ("narrows_enclave_upstream", {"does": one}) for one in _DOES},
}
"""The enclave's name of a number to the metric and its labels."""


def figures_in(line: str) -> dict[str, float]:
    """The numbers of a telemetry line that are known; none of a line that is no such."""
    _, mark, rest = line.partition(MARK)
    if not mark:
        return {}
    try:
        found = json.loads("{" + rest)
    except (ValueError, RecursionError):
        return {}
    return {
        name: float(number)
        for name, number in found.items()
        if name in KNOWN and type(number) in (int, float) and 0 <= number <= MAX_NUMBER
    }


class EnclaveFigures:
    """The last numbers of one enclave. ``lines``: a new connection's lines, until it closes."""

    def __init__(
        self,
        lines: Callable[[], AsyncIterator[str]],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines, self._monotonic_s = lines, monotonic_s
        self._numbers: dict[str, float] = {}
        self._connected = False
        self._lost_s = -FRESH_S

    async def follow(self) -> None:
        """Read for ever; a link that ends is dialled again after ``AGAIN_S``."""
        fault = ""
        while True:
            try:
                async for line in self._lines():
                    self._connected, fault = True, ""
                    self.hear(line)
            except NarrowsError as error:
                if error.message != fault:
                    log.warning("telemetry: %s", error.message)
                fault = error.message
            if self._connected:
                self._connected, self._lost_s = False, self._monotonic_s()
            await asyncio.sleep(AGAIN_S)

    def hear(self, line: str) -> None:
        """One line of telemetry."""
        self._numbers |= figures_in(line)

    def values(self) -> list[Value]:
        """What it said last; nothing but that it is down once its link is gone for
        ``FRESH_S``."""
        up = value("narrows_role_up", self._connected, role="enclave")
        if not self._connected and self._monotonic_s() - self._lost_s >= FRESH_S:
            return [up]
        named = [(*KNOWN[name], number) for name, number in sorted(self._numbers.items())]
        return [up, *(value(metric, number, **labels) for metric, labels, number in named)]
