"""Where a link's coding may be left and taken up again, so that no bytes hold a model for long.

Work is counted in units of about one model step. A generator that ``spend``s yields before it
would pass ``BATCH_STEPS`` since it was last resumed; whoever drives it then looks whether the
link is still wanted, and lets others have the model. Where it yields changes no coded byte.

Invariant: nothing that a model returned is needed across a yield uncopied (``keep``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator

BATCH_STEPS = 32
"""Under a second of the built-in 135M model on two busy processors."""

Step = Generator[None, None, None]


class Pacer:
    """``paused``: it yielded because the batch is used up, not for want of bytes."""

    def __init__(self, keep: Callable[[], None]) -> None:
        """``keep`` copies what the model returned and is still needed."""
        self.paused = False
        self.keep = keep
        self._left = BATCH_STEPS

    def begin(self) -> None:
        """A new batch: before each resumption."""
        self.paused = False
        self._left = BATCH_STEPS

    def spend(self, units: int) -> Step:
        """Before ``units`` of work, at most ``BATCH_STEPS``."""
        if units > self._left:
            self.paused = True
            self.keep()
            yield
        self._left -= units
