"""The moments at which a gate sends: a fixed grid that started with it.

Ticks are moments of the grid. What is no tick (handshakes, the state port) also leaves at one of
them, so that *when* it leaves says nothing of what the gate was busy with. Long ticks are
divided: nobody waits for a handshake longer than ``LONGEST_S``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

LONGEST_S = 0.1


class Grid:
    """``period_s`` of a tick; a moment that is reached more than ``late_s`` after it is missed."""

    def __init__(
        self,
        period_s: float,
        late_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.origin_s = clock()
        self._step_s = period_s / max(1, math.ceil(period_s / LONGEST_S))
        self._late_s = min(late_s, self._step_s / 2)
        self._clock, self._sleep = clock, sleep

    async def moment(self) -> None:
        """Return at the next moment, or at the first one that is not missed."""
        slot = math.floor((self._clock() - self.origin_s) / self._step_s)
        while True:
            slot += 1
            due_s = self.origin_s + slot * self._step_s
            await self._sleep(max(0.0, due_s - self._clock()))
            now = self._clock()
            if due_s <= now <= due_s + self._late_s:
                return
            if now > due_s:
                slot = math.floor((now - self.origin_s) / self._step_s)
            else:
                slot -= 1  # woken early: the same moment again
