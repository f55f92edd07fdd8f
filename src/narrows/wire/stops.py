"""Stop strings on streamed text: one rule for the enclave, which ends the answer, and the
edge, which cuts the text.

A strong model's tokens cross whole, so the last one may run past the stop string; the edge
knows the request and cuts. Text is released only when no stop string can still begin in it.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Feed text, get what may be shown. After a match ``stopped`` is true, nothing follows, and
    ``found`` is the stop string.

    Holds back at most ``max(len(stop)) - 1`` characters. The occurrence that is complete first
    wins (of two that end together, the longer), so the result does not depend on how the text
    was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False
        self.found = ""

    def feed(self, text: str) -> str:
        """The part of all text so far that is now safe to release."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [
            (at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        if found:
            self.stopped = True
            _, at, self.found = min(found)
            released, self._held = self._held[:at], ""
            return released
        keep = self._possible_start()
        released, self._held = self._held[: len(self._held) - keep], self._held[-keep:] * (keep > 0)
        return released

    def finish(self) -> str:
        """The rest, when the answer ends without a match."""
        released, self._held = ("" if self.stopped else self._held), ""
        return released

    def _possible_start(self) -> int:
        """Length of the longest suffix that is a proper prefix of a stop string."""
        longest = min(len(self._held), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            suffix = self._held[-length:]
            if any(stop.startswith(suffix) for stop in self._stops):
                return length
        return 0
