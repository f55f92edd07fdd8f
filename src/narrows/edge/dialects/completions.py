"""OpenAI's completions: an answer to a text is more text, whole and streamed.

Choices are numbered prompt by prompt: choice k is of prompt k // n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from narrows.coding.events import Finish
from narrows.edge.answer import Piece
from narrows.edge.dialects.chat import FINISH_REASONS, usage_body
from narrows.edge.dialects.dialect import Ended, TokenUsage, event, random_id
from narrows.edge.problems import ApiError

_REASONS = FINISH_REASONS | {Finish.TOOL_CALLS: "stop"}


class CompletionsDialect:
    """``answers``: how many choices. ``created_s``: seconds since the epoch. ``with_usage``: the
    client asked for it at the end of its stream."""

    def __init__(
        self,
        answers: int,
        *,
        model: str,
        created_s: int,
        system_fingerprint: str,
        with_usage: bool,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._head = {
            "id": random_id("cmpl-", random_bytes),
            "object": "text_completion",
            "created": created_s,
            "model": model,
            "system_fingerprint": system_fingerprint,
        }
        self._with_usage = with_usage
        self._texts: list[list[str]] = [[] for _ in range(answers)]

    @property
    def reply_id(self) -> str:
        return str(self._head["id"])

    def add(self, index: int, pieces: Sequence[Piece]) -> None:
        self._texts[index].append(_text(pieces))

    def whole(self, ends: Sequence[Ended], tokens: TokenUsage) -> dict[str, Any]:
        choices = [
            _choice(index, "".join(texts), end.reason)
            for index, (texts, end) in enumerate(zip(self._texts, ends, strict=True))
        ]
        return self._head | {"choices": choices, "usage": usage_body(tokens)}

    def begin(self, prompt_tokens: int) -> bytes:
        return b""

    def pieces(self, index: int, pieces: Sequence[Piece]) -> bytes:
        text = _text(pieces)
        return self._chunk(_choice(index, text, None)) if text else b""

    def finish(self, index: int, end: Ended) -> bytes:
        return self._chunk(_choice(index, "", end.reason))

    def end(self, tokens: TokenUsage) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._with_usage:
            return done
        return event(self._head | {"choices": [], "usage": usage_body(tokens)}) + done

    def failed(self, problem: ApiError) -> bytes:
        return event(problem.body())

    def error(self, problem: ApiError) -> dict[str, Any]:
        return problem.body()

    def ping(self) -> bytes:
        return b": waiting\n\n"

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        body = self._head | {"choices": [choice]}
        return event(body | {"usage": None} if self._with_usage else body)


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
