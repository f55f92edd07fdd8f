"""The way back: a port that refused asks again, until a link would be served.

The edge dials only where the state line says ``ok``, so a refused port must not wait for a link
to change that line. It asks the ledger at moments that follow from time and from the ledger's
earlier answers, and never from the enclave or from whoever connects.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

from narrows.ledger.api import Denied
from narrows.wire.gatestate import MAX_RETRY_AFTER_S, PortState, told

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 3.0
LEAST_PAUSE_S = 0.1  # a window that opens in a moment


class PortVerdict:
    """What the state line says of a port. ``clock``: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.state = "ok"
        self.changes = 0  # how often it was said: an answer that took long may be out of date
        self.refused = asyncio.Event()
        self._clock = clock
        self._retry_at: float | None = None

    def allow(self) -> None:
        self.state, self._retry_at = "ok", None
        self.changes += 1
        self.refused.clear()

    def refuse(self, reason: str, retry_after_s: float | None = None) -> None:
        """``retry_after_s``: from now; None or 0 where time alone does not help."""
        self.state = told(reason)
        self.changes += 1
        self._retry_at = self._clock() + retry_after_s if retry_after_s else None
        self.refused.set()

    @property
    def retry_after_s(self) -> float | None:
        """Seconds from now, at least 0; None where time alone does not help."""
        return None if self._retry_at is None else max(0.0, self._retry_at - self._clock())

    def line(self) -> PortState:
        """As the state line has it: whole seconds, 1 while an opening is due."""
        left_s = self.retry_after_s
        seconds = 0 if left_s is None else min(MAX_RETRY_AFTER_S, max(1, math.ceil(left_s)))
        return PortState(self.state, seconds)


class Refusing(Protocol):
    """A port, as far as ``recover`` needs it."""

    verdict: PortVerdict

    @property
    def links_live(self) -> int: ...

    async def ask(self) -> Denied | None: ...


async def recover(port: Refusing) -> None:
    """For ever: while a port refuses and has no links, ask again and say what was heard."""
    verdict = port.verdict
    while True:
        await verdict.refused.wait()
        pause_s = FIRST_PAUSE_S
        while verdict.refused.is_set():
            left_s = verdict.retry_after_s
            await asyncio.sleep(
                pause_s if left_s is None else min(pause_s, max(LEAST_PAUSE_S, left_s))
            )
            pause_s = min(MAX_PAUSE_S, 1.5 * pause_s)
            if not verdict.refused.is_set() or port.links_live:
                continue
            before = verdict.changes
            denied = await port.ask()
            if verdict.changes != before:
                continue  # a link was served or refused meanwhile: that is newer
            if denied is not None and not port.links_live:
                verdict.refuse(denied.reason, denied.retry_after_s)
            else:
                verdict.allow()
