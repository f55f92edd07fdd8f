"""What a segment costs, and what of it is explained. Integers, Q16 bits, rounded against credit."""

from __future__ import annotations

import math

from narrows.audit.code import ONE_BIT

SEGMENT_TOKENS = 256
"""An answer is charged in segments of at most so many tokens."""


def segment_cost_q16(audit_q16: int, link_q16: int) -> int:
    """-log2(1/2 2**-audit + 1/2 2**-link): at most one bit more than the cheaper of the two.

    A mixture of two codes for the whole segment, so it is a code; ``link_q16`` is rounded up."""
    apart = abs(audit_q16 - link_q16) / ONE_BIT
    saved = math.log2(1 + 2.0**-apart) if apart < 64 else 0.0
    exact = min(audit_q16, link_q16) + ONE_BIT - saved * ONE_BIT
    return min(math.floor(exact) + 1, link_q16 + ONE_BIT)


def explained_q16(cost_q16: int, link_q16: int, tokens: int) -> int:
    """What of the link's own cost of a segment is explained; below 0 where the audit's code is
    the longer one. Each token's link cost was rounded up by at most one unit."""
    return link_q16 - tokens - cost_q16


def credit_bytes(explained_total_q16: int) -> int:
    """Whole bytes of a sum of ``explained_q16``; never below 0."""
    return max(0, explained_total_q16) // (8 * ONE_BIT)
