"""What a report says of each kind of bits: how much of it stays charged."""

from __future__ import annotations

from typing import Any

TIME = "time and the gate's own"


def tokens_seen(found: dict[str, Any]) -> float:
    """Tokens of all segments, as the drawn ones let it be estimated where not all were drawn."""
    return float(found["tokens"]) * _undrawn(found)


def token_bits(found: dict[str, Any]) -> float:
    """Bits that all tokens stay charged with. With every segment audited what was not credited
    says it, to the byte; with a share the code does, plus the mixture's bit for each segment, and
    the link's price for drawn ones that could not be scored."""
    if found["share"] == 1:
        left = found["raw_bits"] - 8 * found["credit_bytes"] - sum(rest(found).values())
        return max(0.0, float(left))
    scored = found["tokens"] * found["unexplained_bits"] + found["drawn"]
    unscored = sum(found["not_scored"].values()) / max(1, found["drawn"])
    paid = float(found["bits_by_kind"].get("tokens", 0.0))
    return float(scored) * _undrawn(found) + float(unscored) * paid


def rest(found: dict[str, Any]) -> dict[str, float]:
    """Bits that no audit explains: time, and all that is neither tokens nor checks."""
    kinds = found["bits_by_kind"]
    time = float(kinds.get(TIME, 0.0))
    known = float(kinds.get("tokens", 0.0)) + float(kinds.get("checks", 0.0)) + time
    return {"signalling": max(0.0, float(found["raw_bits"]) - known), "timing": time}


def by_kind(found: dict[str, Any]) -> list[tuple[str, float]]:
    return [("tokens", token_bits(found)), *rest(found).items()]


def _undrawn(found: dict[str, Any]) -> float:
    return float(found["segments"]) / max(1.0, float(found["drawn"]))
