"""Time that nobody can push forward: CLOCK_BOOTTIME within a boot, the witness across boots.

Wall time is never read. Ledger time is the anchor of this boot (an ``open`` leaf) plus what
CLOCK_BOOTTIME has counted since. Where the boot is a new one, the anchor comes from the
witness's live answer; without a witness it is the last time in the log: windows then do not
advance while the machine is off, which errs on the closed side.

    back     the boot clock never does; if it seems to, ``now_ms`` raises and nothing leaves
    forward  setting the wall clock has no effect
    frozen   no window forgets
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from narrows.errors import BudgetError
from narrows.ledger.rules import Anchor


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
        boot_ms = self._clock.boot_ms()
        if boot_ms < self._last_boot_ms:
            raise ClockError(
                f"the boot clock went back by {self._last_boot_ms - boot_ms} ms",
                "restart the machine; nothing leaves until the clock is past that point",
            )
        self._last_boot_ms = boot_ms
        return self._anchor.time_ms + boot_ms - self._anchor.boot_ms
