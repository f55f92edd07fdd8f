"""Why something counts in full, how often: bounded, whatever a tape's writer makes of it."""

from __future__ import annotations

MAX_REASONS = 64
MAX_CHARACTERS = 120
OTHERS = "other reasons"


def count(reasons: dict[str, int], why: str) -> None:
    """One more of ``why``: cut, and one of at most 65."""
    key = why[:MAX_CHARACTERS]
    if key not in reasons and len(reasons) >= MAX_REASONS:
        key = OTHERS
    reasons[key] = reasons.get(key, 0) + 1
