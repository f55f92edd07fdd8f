"""Time that nobody can push forward: CLOCK_BOOTTIME within a boot, the witness across boots.

Wall time is never read. Ledger time is the anchor of this boot (an ``open`` leaf) plus what
CLOCK_BOOTTIME has counted since. Where the boot is a new one, the anchor comes from the
witness's live answer; without a witness it is the last time in the log: windows then do not
advance while the machine is off, which errs on the closed side.

With a witness no gate's clock is believed alone (``WitnessedTime``): the witness is asked at the
start and every ``RENEW_MS``, and signs its time with every lease. What the clock has gained on it
for certain is taken back, and nothing is granted where the time of a decision, or the log's, is
ahead of the witness's answer by more than ``TOLERANCE_MS``. The question's way counts in the
ledger's favour: its time when it asked is compared with the witness's when it answered.

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
    forward  setting the wall clock has no effect; a boot clock that jumps or runs fast is held to
             the witness's, and grants nothing while what it wrote lies ahead
    frozen   no window forgets
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from narrows.errors import BudgetError
from narrows.ledger.records import Anchor

RENEW_MS = 300_000
DRIFT_DIVISOR = 2000  # rates differ by less than 0.05 %
DRIFT_MS = RENEW_MS // DRIFT_DIVISOR
# By how much a window may open early whatever a clock does. A question's way there hides as much of
# what honest clocks gain: no less than the client's patience for an answer.
TOLERANCE_MS = 5000
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


class WitnessedTime(LedgerTime):
    """Ledger time of one machine, which never gains on the witness's."""

    def __init__(self, clock: Clock, anchor: Anchor) -> None:
        super().__init__(clock, anchor)
        self._asked = False
        # The least by which it was ahead of the witness's so far, never above 0: a clock that was
        # held back must not catch up, or what was dated behind would be forgotten early.
        self._offset_ms = 0

    @property
    def stale(self) -> bool:
        """Whether the witness must be asked before this time is used."""
        return not self._asked or self.boot_ms() - self._anchor.boot_ms >= RENEW_MS

    def ahead_ms(self, time_ms: int, witness_ms: int) -> int:
        """By how much ``time_ms``, known before the question, is ahead for certain of what it
        may be at the witness's answer; negative where it is behind."""
        return time_ms - witness_ms - self._offset_ms

    def renew(self, asked_boot_ms: int, witness_ms: int) -> int:
        """Give up what this clock has gained: the witness's was at ``witness_ms`` at some moment
        between ``asked_boot_ms`` and now. Returns how much of it drift does not explain."""
        gained_ms = self._gained_ms(asked_boot_ms, witness_ms)
        boot_ms, passed_ms = self._passed()
        now_ms = self._anchor.time_ms + passed_ms - max(0, gained_ms)
        self._offset_ms = min(self._offset_ms, now_ms - witness_ms)
        self._take(boot_ms, now_ms)
        return gained_ms - passed_ms // DRIFT_DIVISOR

    def _gained_ms(self, asked_boot_ms: int, witness_ms: int) -> int:
        asked_ms = self._anchor.time_ms + asked_boot_ms - self._anchor.boot_ms
        return self.ahead_ms(asked_ms, witness_ms)

    def _passed(self) -> tuple[int, int]:
        boot_ms = self.boot_ms()
        return boot_ms, boot_ms - self._anchor.boot_ms

    def _take(self, boot_ms: int, time_ms: int) -> None:
        self._anchor, self._asked = Anchor(self._anchor.boot_id, boot_ms, time_ms), True


class SharedTime(WitnessedTime):
    """Ledger time of one of several machines, kept near the witness's."""

    _behind_ms = 0

    @property
    def hold_ms(self) -> int:
        """How long after its bytes left a lease may be settled, in boot time."""
        return self._behind_ms + 2 * DRIFT_MS

    def renew(self, asked_boot_ms: int, witness_ms: int) -> int:
        """Take a new anchor, which may be later than what this clock says."""
        gained_ms = self._gained_ms(asked_boot_ms, witness_ms)
        boot_ms, passed_ms = self._passed()
        most_ms = self._anchor.time_ms + passed_ms + passed_ms // _STEP_DIVISOR
        chosen_ms = min(witness_ms, most_ms)
        # The witness's clock is now between its answer and that plus the question's whole way.
        self._behind_ms = witness_ms - chosen_ms + boot_ms - asked_boot_ms
        self._take(boot_ms, chosen_ms)
        return gained_ms - passed_ms // DRIFT_DIVISOR
