"""How a model writes what is no content into its text: reasoning and calls of tools.

A model that says its own tokens says its markup too (``<think>``, ``<tool_call>``), and the link
carries all of it in one channel, so that every token keeps its position in the noise. What the
markup is, the enclave says at the head of the answer, by SWITCHes before its first token
(docs/link-format.md); the edge takes the text apart. An edge that can do so says it in the request,
in ``FIELD``. Both ends' older versions know nothing of it and send or get text.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from narrows.coding.events import Channel
from narrows.errors import LinkError

FIELD = "markup"
VERSION = 1
THINK, THOUGHT = "<think>", "</think>"
"""What opens reasoning, and what closes it."""


class CallForm(enum.Enum):
    """How a call of a tool stands in the text."""

    NONE = "none"
    HERMES = "hermes"  # <tool_call>{"name": ..., "arguments": {...}}</tool_call>, anywhere
    LLAMA3 = "llama3"  # {"name": ..., "parameters": {...}}, as the whole answer


class ReasoningForm(enum.Enum):
    """How reasoning stands in the text."""

    NONE = "none"
    MARKED = "marked"  # <think>...</think> at the start, where there is any
    BEGUN = "begun"  # the prompt has opened it: ...</think>
    KEPT = "kept"  # there was some, and it stayed inside (``kept.py``)


@dataclass(frozen=True, slots=True)
class Markup:
    """Of one answer."""

    reasoning: ReasoningForm = ReasoningForm.NONE
    calls: CallForm = CallForm.NONE

    @property
    def head(self) -> tuple[Channel, ...]:
        """The switches that say it; none for text without markup."""
        return _REASONING[self.reasoning] + _CALLS[self.calls]


_REASONING = {
    ReasoningForm.NONE: (),
    ReasoningForm.MARKED: (Channel.REASONING,),
    ReasoningForm.BEGUN: (Channel.REASONING, Channel.REFUSAL),
    ReasoningForm.KEPT: (Channel.REFUSAL,),
}
_CALLS = {
    CallForm.NONE: (),
    CallForm.HERMES: (Channel.TOOL_NAME,),
    CallForm.LLAMA3: (Channel.TOOL_ARGUMENTS,),
}
_BY_HEAD = {
    markup.head: markup
    for markup in (Markup(reasoning, calls) for reasoning in ReasoningForm for calls in CallForm)
}


def markup_of(head: Sequence[Channel]) -> Markup:
    """What ``head`` says. LinkError: nothing."""
    markup = _BY_HEAD.get(tuple(head))
    if markup is None:
        raise LinkError("an answer's head says no markup")
    return markup


def reads_markup(body: Mapping[str, Any]) -> bool:
    """Whether the edge of this request takes markup apart."""
    return type(body.get(FIELD)) is int and body[FIELD] == VERSION
