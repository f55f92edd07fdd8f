"""OpenAI's completions: an answer to a text is more text, whole and streamed.

Choices are numbered prompt by prompt: choice k is of prompt k // n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narrows.coding.events import Finish
from narrows.edge.answer import Piece
from narrows.edge.dialects.choices import FINISH_REASONS, ChoicesDialect, ChoicesHead
from narrows.edge.dialects.dialect import Ended, TokenUsage

_REASONS = FINISH_REASONS | {Finish.TOOL_CALLS: "stop"}


class CompletionsDialect(ChoicesDialect):
    """``answers``: how many choices."""

    def __init__(self, answers: int, head: ChoicesHead) -> None:
        super().__init__(head, "cmpl-", "text_completion", "text_completion")
        self._texts: list[list[str]] = [[] for _ in range(answers)]

    def add(self, index: int, pieces: Sequence[Piece]) -> None:
        self._texts[index].append(_text(pieces))

    def whole(self, ends: Sequence[Ended], tokens: TokenUsage) -> dict[str, Any]:
        choices = [
            _choice(index, "".join(texts), end.reason)
            for index, (texts, end) in enumerate(zip(self._texts, ends, strict=True))
        ]
        return self._whole(choices, tokens)

    def begin(self, prompt_tokens: int) -> bytes:
        return b""

    def pieces(self, index: int, pieces: Sequence[Piece]) -> bytes:
        text = _text(pieces)
        return self._chunk(_choice(index, text, None)) if text else b""

    def finish(self, index: int, end: Ended) -> bytes:
        return self._chunk(_choice(index, "", end.reason))


def _text(pieces: Sequence[Piece]) -> str:
    """All of it: this API has no other channel for what is no content."""
    return "".join(piece.text for piece in pieces)


def _choice(index: int, text: str, reason: Finish | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": None if reason is None else _REASONS[reason],
    }
