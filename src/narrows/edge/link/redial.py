"""When the gate is dialled again.

Waits double from ``FIRST_WAIT_S``: to ``DIAL_WAIT_S`` where there was no greeting, and to
``BROKEN_WAIT_S`` where a link was refused, or broke behind its greeting with no answer completed:
each greeting is paid from the budget. Where nobody listened at all, which costs nothing, a request
that waits has the gate dialled every ``WANTED_WAIT_S``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from narrows.edge.link.dial import Refused, Unreachable
from narrows.errors import NarrowsError

log = logging.getLogger("narrows.edge.link")

FIRST_WAIT_S = 0.1
DIAL_WAIT_S = 2.0
WANTED_WAIT_S = 0.2
BROKEN_WAIT_S = 10.0


class Redial:
    """``wait_s``: the next wait. ``refusal``: what the enclave said last, where it refused.
    ``waiting``: requests that wait for a link."""

    def __init__(self) -> None:
        self.wait_s = FIRST_WAIT_S
        self.refusal: Refused | None = None
        self._free = False  # the last dial cost nothing
        self.waiting = 0
        self._wanted = asyncio.Event()  # set while there are any
        self._last_error = ""

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """A request waits for a link."""
        self.waiting += 1
        self._wanted.set()
        try:
            yield
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._wanted.clear()

    async def pause(self) -> None:
        """Between two dials: the wait, cut short where a request waits and dialling is free."""
        least_s = min(WANTED_WAIT_S, self.wait_s)
        await asyncio.sleep(least_s)
        try:
            async with asyncio.timeout(self.wait_s - least_s):
                await (self._wanted if self._free else asyncio.Event()).wait()
        except TimeoutError:
            return

    def failed(self, error: NarrowsError) -> None:
        """No link came of a dial."""
        self._free = isinstance(error, Unreachable)
        self.refusal = error if isinstance(error, Refused) else None
        self._back_off(error, BROKEN_WAIT_S if self.refusal else DIAL_WAIT_S)

    def greeted(self) -> None:
        """A link is up."""
        self.refusal, self._free = None, False

    def ended(self, error: Exception, steady: bool) -> None:
        """The link that was up is over. ``steady``: it had served, or lived for a while."""
        if steady:
            self.wait_s = FIRST_WAIT_S
        self._back_off(error, BROKEN_WAIT_S)

    def forgive(self) -> None:
        """The gate had a reason of its own: it says when to dial again, and asking is free."""
        self.wait_s = min(self.wait_s, DIAL_WAIT_S)

    def _back_off(self, error: Exception, limit_s: float) -> None:
        text = str(error)
        if text != self._last_error:
            log.warning("%s", text, exc_info=None if isinstance(error, NarrowsError) else error)
        self._last_error = text
        self.wait_s = min(limit_s, 2 * self.wait_s)
