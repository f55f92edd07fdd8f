"""When the encoder runs a round, and how much each answer brings: policy, not wire format.

"Every open answer has its next token" costs almost nothing to say; exceptions do. Two modes:

- *Even*: a round runs when every answer that was in the last one is ready again, at the latest
  when one has waited ``round_hold_ms``. Right for streams that tick alike.
- *Smooth*: a round runs when the answers have waited ``round_hold_ms / 2`` on average, so that
  each has a small stock, brings one item a round, and is an exception only when its stock runs
  out or grows over ``round_hold_ms``. The mean over many answers keeps time: no clock is coded.
  A stock of B tokens makes about one exception in B**2 rounds (a random walk between two ends).

Foreign text leaves the tokeniser unevenly, however evenly it came: nothing for one piece, two
tokens for the next. Its items count as old only from when they must have left it; else what the
tokeniser held would use up the patience that evens this out, and with many texts every round
would be an exception (0.42 bits a token for 64 texts, against 0.06).

Exceptions decide the mode: many in even mode lead to smooth, none for long lead back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from narrows.coding.link.answer import Item
from narrows.coding.link.rounds import REST

WORTH_REST = 8
"""Items of a finished answer that are worth an exception. Fewer come one a round: free of cost,
and a few token intervals later at most. The last text of an answer leaves the tokeniser
together, so most answers end with four or five items in stock."""

WORTH_REST_NEW = 4
"""The same of an answer that was not in the last round: it is an exception already, and may be
a short one, complete at once."""

_EVEN_MS = 20.0
"""Even mode: an item is late this long after the time for which a round waits, since what a wait
has heaped up is mostly gone by rounds that follow at once, free of cost."""

_SMOOTH_ABOVE = 0.03
_EVEN_BELOW = 0.001
_WINDOW_ROUNDS = 48.0


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
        self._last_ms = float("-inf")
        self._irregular = 0.0
        self._smooth = False

    def plan(self, answers: Sequence[Queued], now_ms: float) -> list[int] | None:
        """Counts of the round to run now, in the order of ``answers``; None to wait."""
        due = self.due_ms(answers)
        if due is None or due > now_ms:
            return None
        counts = [self._count(answer, now_ms) if answer.queue else 0 for answer in answers]
        self._learn(answers, counts)
        self._last_ms = now_ms
        return counts

    def due_ms(self, answers: Sequence[Queued]) -> float | None:
        """When a round is due (a time long past: at once); None while nothing waits."""
        ready = [answer for answer in answers if answer.queue]
        if not ready:
            return None
        heads = [answer.queue[0].ready_ms for answer in ready]
        missing = sum(1 for answer in answers if answer.expected and not answer.queue)
        at_once = min(answer.queue[0].came_ms for answer in ready)
        if not self._smooth:
            return max(min(heads), self._last_ms) + self._hold_ms if missing else at_once
        if all(answer.complete for answer in ready) and not missing:
            return at_once
        # The mean age of heads, an answer without one counted as of age 0, reaches hold / 2.
        mean_head = sum(heads) / len(heads)
        return mean_head + self._hold_ms / 2 * (1 + missing / len(heads))

    def _count(self, answer: Queued, now_ms: float) -> int:
        waiting = len(answer.queue)
        if answer.complete and waiting >= (WORTH_REST if answer.expected else WORTH_REST_NEW):
            return REST if waiting <= self._max_run else self._max_run
        late = 0
        patience_ms = self._hold_ms + (0.0 if self._smooth else _EVEN_MS)
        for item in answer.queue:
            if item.ready_ms + patience_ms > now_ms or late >= self._max_run:
                break
            late += 1
        if self._smooth and late > 1 and not answer.complete:
            late = 2 if late < 4 else late
        return max(late, 1)

    def _learn(self, answers: Sequence[Queued], counts: Sequence[int]) -> None:
        expected = [(a, n) for a, n in zip(answers, counts, strict=True) if a.expected]
        if not expected:
            return
        odd = sum(1 for a, n in expected if n != 1 and not a.complete) / len(expected)
        self._irregular += (odd - self._irregular) / _WINDOW_ROUNDS
        if self._irregular > _SMOOTH_ABOVE:
            self._smooth = True
        elif self._irregular < _EVEN_BELOW:
            self._smooth = False
