"""When the encoder runs a round, and how much each answer brings: policy, not wire format.

"Every open answer has its next token" costs almost nothing to say; exceptions do. So tokens
wait for a round: until every answer that was in the last round is ready again, at most
``round_hold_ms``. An answer brings one item, and besides it what has waited ``round_hold_ms``;
an answer that is complete brings its whole rest at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from narrows.coding.link_answer import Item
from narrows.coding.rounds import REST

WORTH_REST = 4


class Queued(Protocol):
    """What the schedule knows of an open answer."""

    @property
    def queue(self) -> deque[Item]: ...

    @property
    def complete(self) -> bool:
        """The queue's last item is the answer's end."""

    @property
    def expected(self) -> bool:
        """It was in the last round, so the far side counts on it."""


class Schedule:
    def __init__(self, round_hold_ms: float, max_run: int) -> None:
        self._hold_ms = round_hold_ms
        self._max_run = max_run

    def plan(self, answers: Sequence[Queued], now_ms: float) -> list[int] | None:
        """Counts of the round to run now, in the order of ``answers``; None to wait."""
        due = self.due_ms(answers)
        if due is None or due > now_ms:
            return None
        return [self._count(answer, now_ms) if answer.queue else 0 for answer in answers]

    def due_ms(self, answers: Sequence[Queued]) -> float | None:
        """When a round is due (a time long past: at once); None while nothing waits."""
        oldest: float | None = None
        missing = False
        for answer in answers:
            if not answer.queue:
                missing = missing or answer.expected
            elif oldest is None or answer.queue[0].came_ms < oldest:
                oldest = answer.queue[0].came_ms
        if oldest is None:
            return None
        return oldest + self._hold_ms if missing else oldest

    def _count(self, answer: Queued, now_ms: float) -> int:
        waiting = len(answer.queue)
        if answer.complete and waiting >= WORTH_REST:
            return REST if waiting <= self._max_run else self._max_run
        late = 0
        for item in answer.queue:
            if item.came_ms + self._hold_ms > now_ms or late >= self._max_run:
                break
            late += 1
        return max(late, 1)
