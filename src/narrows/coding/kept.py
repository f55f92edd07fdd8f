"""Reasoning that stays inside: what the two ends say of it.

The edge says in the request, in ``FIELD``, how much of it the client wants at most; the operator's
own bound is the enclave's. An edge that says it knows the two forms of *there was some*: of an
answer of tokens a head (``ReasoningForm.KEPT``), whose usage counts the hidden tokens too; of a
text answer ``count_said``, its last words.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from narrows.coding.events import Channel, Event, Switch, Text

FIELD = "reasoning"
MAX_COUNT_DIGITS = 9
BYTES_PER_TOKEN = 4
"""Of text whose tokens nobody counts."""


class ReasoningLevel(enum.IntEnum):
    """What of an answer's reasoning may leave; the lower one of two holds."""

    KEEP = 0
    SEND = 1


LEVELS = {level.name.lower(): level for level in ReasoningLevel}


def level_of(operator: ReasoningLevel, body: Mapping[str, Any]) -> ReasoningLevel:
    """What both allow. A request without the field, or with another word in it, asks for all."""
    said = body.get(FIELD)
    asked = LEVELS.get(said) if isinstance(said, str) else None
    return operator if asked is None else min(operator, asked)


def reads_counts(body: Mapping[str, Any]) -> bool:
    """Whether the edge of this request knows what is said of kept reasoning."""
    said = body.get(FIELD)
    return isinstance(said, str) and said in LEVELS


def asks_less(body: Mapping[str, Any]) -> bool:
    """Whether the client wants less than all of the reasoning, whatever the operator allows."""
    return level_of(ReasoningLevel.SEND, body) is not ReasoningLevel.SEND


def count_said(tokens: int, channel: Channel) -> list[Event]:
    """How a text answer that is in ``channel`` says that ``tokens`` tokens of reasoning stayed
    inside: it enters REASONING, says nothing there, and says the number in REFUSAL. No other
    answer leaves REASONING for REFUSAL without a word."""
    number = str(min(max(tokens, 0), 10**MAX_COUNT_DIGITS - 1)).encode("ascii")
    first: list[Event] = [Switch(Channel.CONTENT)] if channel is Channel.REASONING else []
    return [*first, Switch(Channel.REASONING), Switch(Channel.REFUSAL), Text(number)]
