"""What switching links needs: whose bytes they are, and how long to wait between tries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from narrows.edge.books.stats import StatsRecorder
from narrows.edge.link.link import EdgeLink
from narrows.models.shelf.shelf import Offer, Shelf

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 3600.0  # a try costs a greeting, and about 1 kB of TLS where there is any


class LinkBytes:
    """Counts what is read from one connection for the weak model it is used with."""

    def __init__(self, stats: StatsRecorder, weak: str) -> None:
        self._stats = stats
        self.weak = weak

    def __call__(self, size_bytes: int) -> None:
        self._stats.traffic(self.weak).link_bytes += size_bytes


def successors(shelf: Shelf, link: EdgeLink, most_s: float) -> Sequence[Offer]:
    """What a link that takes the place of ``link`` may use: a newer model, or any where ``link``
    is ``most_s`` old (0: it never is); nothing while it should stay."""
    if most_s and time.monotonic() - link.opened_s >= most_s:
        return shelf.offers
    return shelf.newer_than(link.model.digest)


class Patience:
    """Tries for a newer model: at once, then after 5 s, 10 s, ... an hour. An enclave that
    never gets it costs little; ``reset`` makes the next try due at once."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._wait_s = FIRST_WAIT_S
        self._due_s = 0.0

    @property
    def over(self) -> bool:
        return self._now_s() >= self._due_s

    def tried(self) -> None:
        self._due_s = self._now_s() + self._wait_s
        self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s)

    def reset(self) -> None:
        self._wait_s = FIRST_WAIT_S
        self._due_s = 0.0
