"""What a budget allows, and the meter that counts against it. Pure: time is an argument.

A ``BudgetMeter`` belongs to a lineage or to an account. It holds

    spent_bytes         settled or dead: gone for ever against the lifetime cap
    outstanding_bytes   leased and not settled: counted in full, everywhere
    windows             for each rolling window, what settled within its length

Invariant, for the lifetime cap and for every window, after every grant:
``spent (within the window) + outstanding <= cap``. Bytes of a lease leave before its
settlement, and settled bytes stay in a window of length L from settlement at t until t + L,
so any half-open interval of length L sees at most the cap, whenever the bytes left.

A window forgets in granules of 1/1024 of its length, rounded *up*: a settlement may count
0.1 % longer than it must, never shorter, and a week at any rate needs 1,025 entries.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Any

from narrows.ledger.log.canonical import MAX_INTEGER, Document, Fields, MalformedError

GRANULES_PER_WINDOW = 1024
MAX_WINDOWS = 16
MIN_SHARE_BYTES = 4096
MAX_WINDOW_MS = 400 * 86_400_000


@dataclass(frozen=True, slots=True)
class Limits:
    """``lifetime_bytes``: cap for ever, None for "what the lineage has" (accounts only).
    ``windows``: (length_ms, cap_bytes), lengths strictly ascending."""

    lifetime_bytes: int | None
    windows: tuple[tuple[int, int], ...] = ()

    def within(self, other: Limits) -> bool:
        """Whether these limits allow nothing that ``other`` forbids: a lowering."""
        if other.lifetime_bytes is not None and (
            self.lifetime_bytes is None or self.lifetime_bytes > other.lifetime_bytes
        ):
            return False
        mine = dict(self.windows)
        return all(
            length in mine and mine[length] <= cap_bytes for length, cap_bytes in other.windows
        )

    def exceeds(self, outer: Limits) -> bool:
        """Whether a number here is above the lineage's for the same thing: a mistake, since
        an account can only narrow."""
        if (self.lifetime_bytes or 0) > (outer.lifetime_bytes or 0):
            return True
        outer_windows = dict(outer.windows)
        return any(cap > outer_windows.get(length, cap) for length, cap in self.windows)

    def document(self) -> Document:
        return {
            "lifetime_bytes": self.lifetime_bytes,
            "windows": [list(window) for window in self.windows],
        }


def parse_limits(document: object, what: str, lifetime_required: bool) -> Limits:
    fields = Fields(document, what)
    lifetime = fields.take("lifetime_bytes")
    if lifetime is None and lifetime_required:
        raise fields.bad("lifetime_bytes")
    if lifetime is not None and (type(lifetime) is not int or not 0 <= lifetime <= MAX_INTEGER):
        raise fields.bad("lifetime_bytes")
    windows: list[tuple[int, int]] = []
    for pair in fields.items("windows", MAX_WINDOWS):
        if not isinstance(pair, list) or len(pair) != 2 or any(type(n) is not int for n in pair):
            raise fields.bad("windows")
        length_ms, cap_bytes = pair
        if not 1 <= length_ms <= MAX_WINDOW_MS or not 0 <= cap_bytes <= MAX_INTEGER:
            raise fields.bad("windows")
        if windows and length_ms <= windows[-1][0]:
            raise fields.bad("windows")
        windows.append((length_ms, cap_bytes))
    fields.done()
    return Limits(lifetime, tuple(windows))


class Window:
    """What settled within the last ``length_ms``."""

    def __init__(self, length_ms: int, cap_bytes: int) -> None:
        self.length_ms = length_ms
        self.cap_bytes = cap_bytes
        self.settled_bytes = 0
        self.entries: deque[list[int]] = deque()  # [leaves_at_ms, bytes], ascending

    def copy(self) -> Window:
        window = Window(self.length_ms, self.cap_bytes)
        window.settled_bytes, window.entries = self.settled_bytes, self.entries.copy()
        if window.entries:
            window.entries[-1] = list(window.entries[-1])  # the only one that ``add`` changes
        return window

    def add(self, time_ms: int, used_bytes: int) -> None:
        leaves_at_ms = self._leaves_at_ms(time_ms)
        if self.entries and self.entries[-1][0] == leaves_at_ms:
            self.entries[-1][1] += used_bytes
        else:
            self.entries.append([leaves_at_ms, used_bytes])
        self.settled_bytes += used_bytes

    def forget(self, time_ms: int) -> None:
        while self.entries and self.entries[0][0] <= time_ms:
            self.settled_bytes -= self.entries.popleft()[1]

    def settled_at(self, time_ms: int) -> int:
        """What counts at ``time_ms``, without forgetting anything."""
        settled = self.settled_bytes
        for leaves_at_ms, used_bytes in self.entries:
            if leaves_at_ms > time_ms:
                break
            settled -= used_bytes
        return settled

    def take_out(self, settled_ms: int, size_bytes: int) -> None:
        """``size_bytes`` of what was settled at ``settled_ms`` count no more. Nothing happens
        to what has left the window, or came before it was there."""
        leaves_at_ms = self._leaves_at_ms(settled_ms)
        index = bisect_left(self.entries, leaves_at_ms, key=lambda entry: entry[0])
        if index < len(self.entries) and self.entries[index][0] == leaves_at_ms:
            taken = min(size_bytes, self.entries[index][1])
            # A copy of this window may share the entry, so it is replaced, not changed.
            self.entries[index] = [leaves_at_ms, self.entries[index][1] - taken]
            self.settled_bytes -= taken

    def _leaves_at_ms(self, settled_ms: int) -> int:
        granule_ms = max(1, self.length_ms // GRANULES_PER_WINDOW)
        return -(-settled_ms // granule_ms) * granule_ms + self.length_ms

    def free_at_ms(self, needed_bytes: int) -> int | None:
        """When ``needed_bytes`` of what settled will have left the window."""
        for leaves_at_ms, used_bytes in self.entries:
            needed_bytes -= used_bytes
            if needed_bytes <= 0:
                return leaves_at_ms
        return None


@dataclass(frozen=True, slots=True)
class Room:
    """What a meter would grant now: ``free_bytes`` (0 or more), and where that is less than
    what is needed the ``reason`` (``depleted`` or ``window``) and when enough of the window
    returns."""

    free_bytes: int
    reason: str
    free_at_ms: int | None = None


class BudgetMeter:
    """Counts against one set of limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent_bytes = 0
        self.outstanding_bytes = 0
        self.windows = {length: Window(length, cap) for length, cap in limits.windows}

    def set_limits(self, limits: Limits) -> None:
        """New caps; windows that stay keep their history, a new one starts empty."""
        self.limits = limits
        old = self.windows
        self.windows = {}
        for length_ms, cap_bytes in limits.windows:
            window = old.get(length_ms) or Window(length_ms, cap_bytes)
            window.cap_bytes = cap_bytes
            self.windows[length_ms] = window

    def committed_bytes(self) -> int:
        return self.spent_bytes + self.outstanding_bytes

    def room(self, time_ms: int, need_bytes: int = 1) -> Room:
        """What may be leased at ``time_ms``. Pure: forgets nothing."""
        free = MAX_INTEGER
        if self.limits.lifetime_bytes is not None:
            free = self.limits.lifetime_bytes - self.committed_bytes()
            if free < need_bytes:
                return Room(max(0, free), "depleted")
        free_at_ms = 0
        for window in self.windows.values():
            left = window.cap_bytes - window.settled_at(time_ms) - self.outstanding_bytes
            free = min(free, left)
            if left < need_bytes:
                over = window.settled_bytes + self.outstanding_bytes - window.cap_bytes
                free_at_ms = max(free_at_ms, window.free_at_ms(over + need_bytes) or 0)
        if free < need_bytes:
            return Room(max(0, free), "window", free_at_ms or None)
        return Room(free, "")

    def hold(self, size_bytes: int) -> None:
        self.outstanding_bytes += size_bytes

    def settle(self, time_ms: int, held_bytes: int, used_bytes: int) -> None:
        self.outstanding_bytes -= held_bytes
        # Gaps that people accept can come to more; a snapshot holds no more.
        self.spent_bytes = min(MAX_INTEGER, self.spent_bytes + used_bytes)
        for window in self.windows.values():
            window.forget(time_ms)
            if used_bytes:
                window.add(time_ms, used_bytes)

    def credit(self, time_ms: int, settled_ms: int, size_bytes: int) -> None:
        """``size_bytes`` of what was settled at ``settled_ms`` (0: before some window was added,
        so they come out of none) are explained (net budgets)."""
        self.spent_bytes -= size_bytes
        for window in self.windows.values():
            window.forget(time_ms)
            if settled_ms:
                window.take_out(settled_ms, size_bytes)

    def copy(self) -> BudgetMeter:
        meter = BudgetMeter(self.limits)
        meter.outstanding_bytes, meter.spent_bytes = self.outstanding_bytes, self.spent_bytes
        meter.windows = {length: window.copy() for length, window in self.windows.items()}
        return meter

    def document(self) -> Document:
        return {
            "limits": self.limits.document(),
            "outstanding": self.outstanding_bytes,
            "spent": self.spent_bytes,
            "windows": [[list(entry) for entry in w.entries] for w in self.windows.values()],
        }

    @classmethod
    def parse(cls, document: object) -> BudgetMeter:
        """Only for snapshots whose digest was checked: types are checked, sums are derived."""
        fields = Fields(document, "meter")
        meter = cls(parse_limits(fields.take("limits"), "limits", lifetime_required=False))
        meter.outstanding_bytes = fields.integer("outstanding")
        meter.spent_bytes = fields.integer("spent")
        entries: list[Any] = fields.items("windows", MAX_WINDOWS)
        fields.done()
        if len(entries) != len(meter.windows):
            raise MalformedError("a snapshot's windows do not match its limits")
        for window, rows in zip(meter.windows.values(), entries, strict=True):
            window.entries = deque([int(at), int(used)] for at, used in rows)
            window.settled_bytes = sum(used for _, used in window.entries)
        return meter


def fair_bytes(want_bytes: int, free_bytes: int, outstanding: int) -> int:
    """What of ``free_bytes`` one lease gets: all that it wants, but towards the end at most
    half of a fair share, so that the last bytes are not all held by who asked first. Never
    under half of what is wanted, or 4 KiB: smaller ones would keep the ledger busy just when
    all gates near the end together."""
    share_bytes = free_bytes // (2 * (1 + outstanding))
    least_bytes = max(want_bytes // 2, MIN_SHARE_BYTES)
    return min(want_bytes, free_bytes, max(share_bytes, least_bytes))
