"""A rate that nothing exceeds: ends of links, handshakes."""

from __future__ import annotations


class TokenBucket:
    """At most ``per_s`` a second in the long run; at once a second's worth, or ``burst``."""

    def __init__(self, per_s: float, now: float, burst: float = 1.0) -> None:
        self._per_s, self._size = per_s, max(burst, per_s)
        self._level, self._then = self._size, now

    def take(self, now: float) -> bool:
        self._level = min(self._size, self._level + (now - self._then) * self._per_s)
        self._then = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
