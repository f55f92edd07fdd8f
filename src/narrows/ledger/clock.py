"""Time that nobody can push forward: CLOCK_BOOTTIME within a boot, the witness across boots.

Wall time is never read. Ledger time is the anchor of this boot (an ``open`` leaf) plus what
CLOCK_BOOTTIME has counted since. Where the boot is a new one, the anchor comes from the
witness's live answer; without a witness it is the last time in the log: windows then do not
advance while the machine is off, which errs on the closed side.

Gates on several machines compare times of different clocks in one log, so each bounds how far
its own is from the witness's (``SharedTime``):

    never ahead    an anchor is the witness's time at or before the boot reading that it is for
    how far behind at most ``behind_ms``: the question's time on the way, and what a step forward
                   was cut short by, since the witness may push no clock by more than 0.1 %
    in between     both drift; the anchor is renewed every ``RENEW_MS``, and rates that differ by
                   less than 0.05 % stay within ``DRIFT_MS``

A settlement is written ``hold_ms`` after its bytes have left. Its time in the log is then at or
after the moment they left, and no grant's time is after its own moment, by any gate's clock: no
window opens early, whichever gate settles and whichever grants.

    back     the boot clock never does; if it seems to, ``now_ms`` raises and nothing leaves
    forward  setting the wall clock has no effect
    frozen   no window forgets
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from narrows.errors import BudgetError
from narrows.ledger.records import Anchor

RENEW_MS = 300_000
DRIFT_MS = RENEW_MS // 2000
_STEP_DIVISOR = 1000  # the witness may move a running clock forward by 0.1 %


class ClockError(BudgetError):
    """Time cannot be trusted."""


class Clock(Protocol):
    def boot_id(self) -> str:
        """Which boot of this machine it is."""

    def boot_ms(self) -> int:
        """CLOCK_BOOTTIME, milliseconds."""


class SystemClock:
    def boot_id(self) -> str:
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ClockError(f"cannot tell which boot this is: {error}") from error

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class LedgerTime:
    """Ledger time within one boot, from an anchor."""

    def __init__(self, clock: Clock, anchor: Anchor) -> None:
        self._clock = clock
        self._anchor = anchor
        self._last_boot_ms = anchor.boot_ms

    def now_ms(self) -> int:
        return self._anchor.time_ms + self.boot_ms() - self._anchor.boot_ms

    def boot_ms(self) -> int:
        """The boot clock. ``ClockError`` where it went back."""
        boot_ms = self._clock.boot_ms()
        if boot_ms < self._last_boot_ms:
            raise ClockError(
                f"the boot clock went back by {self._last_boot_ms - boot_ms} ms",
                "restart the machine; nothing leaves until the clock is past that point",
            )
        self._last_boot_ms = boot_ms
        return boot_ms


class SharedTime(LedgerTime):
    """Ledger time of one of several machines, kept near the witness's."""

    def __init__(self, clock: Clock, anchor: Anchor) -> None:
        super().__init__(clock, anchor)
        self._behind_ms: int | None = None  # unknown until the witness was asked

    @property
    def stale(self) -> bool:
        """Whether the witness must be asked before this time is used."""
        return self._behind_ms is None or self.boot_ms() - self._anchor.boot_ms >= RENEW_MS

    @property
    def hold_ms(self) -> int:
        """How long after its bytes left a lease may be settled, in boot time."""
        return (self._behind_ms or 0) + 2 * DRIFT_MS

    def renew(self, asked_boot_ms: int, time_ms: int) -> None:
        """Take a new anchor: the witness's clock was at ``time_ms`` at some moment between
        ``asked_boot_ms`` and now."""
        boot_ms = self.boot_ms()
        passed_ms = boot_ms - self._anchor.boot_ms
        most_ms = self._anchor.time_ms + passed_ms + passed_ms // _STEP_DIVISOR
        chosen_ms = min(time_ms, most_ms)
        # The witness's clock is now between time_ms and time_ms plus the question's whole way.
        self._behind_ms = time_ms - chosen_ms + boot_ms - asked_boot_ms
        self._anchor = Anchor(self._anchor.boot_id, boot_ms, chosen_ms)
