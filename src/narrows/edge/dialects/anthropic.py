"""Replies of Anthropic's Messages API, whole and streamed.

    message_start, then per block content_block_start, deltas, content_block_stop,
    then message_delta (stop reason, usage), message_stop

A thinking block ends with a signature. It is made here, of the edge's coins, and says nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from narrows.coding.events import Channel, Failure, Finish
from narrows.edge.answer import Piece
from narrows.edge.api import jsonio
from narrows.edge.dialects.anthropic_request import error_body
from narrows.edge.dialects.dialect import Block, Blocks, Ended, TokenUsage, event, random_id
from narrows.edge.problems import ApiError, failure_error

_SIGNATURE_BYTES = 48


class AnthropicDialect:
    """``thinking``: the client wants to see it."""

    def __init__(self, *, model: str, thinking: bool, random_bytes: Callable[[int], bytes]) -> None:
        self._model = model
        self._thinking = thinking
        self._random_bytes = random_bytes
        self._blocks = Blocks()
        self._id = random_id("msg_", random_bytes)
        self._refused = False
        self._prompt_tokens = 0
        self._end = Ended(Finish.STOP)

    @property
    def reply_id(self) -> str:
        return self._id

    def add(self, index: int, pieces: Sequence[Piece]) -> None:
        self._blocks.feed(self._wanted(pieces))

    def whole(self, ends: Sequence[Ended], tokens: TokenUsage) -> dict[str, Any]:
        content = [self._whole_block(block) for block in self._blocks.list]
        reason, stop = self._reason(ends[0])
        return self._message(content, reason, stop, tokens)

    def begin(self, prompt_tokens: int) -> bytes:
        self._blocks = Blocks(keep=False)
        self._prompt_tokens = prompt_tokens
        message = self._message([], None, None, TokenUsage(prompt_tokens, 0))
        return _named({"type": "message_start", "message": message})

    def pieces(self, index: int, pieces: Sequence[Piece]) -> bytes:
        events = []
        for step in self._blocks.feed(self._wanted(pieces)):
            block = self._blocks.list[step.at]
            if step.what == "open":
                events.append(
                    _at("content_block_start", step.at, "content_block", self._new(block))
                )
            elif step.what == "text":
                delta = self._delta(block, step.text)
                events.append(_at("content_block_delta", step.at, "delta", delta))
            else:
                events.append(self._closed(block, step.at))
        return b"".join(events)

    def finish(self, index: int, end: Ended) -> bytes:
        self._end = end
        return b"".join(
            self._closed(self._blocks.list[step.at], step.at) for step in self._blocks.finish()
        )

    def end(self, tokens: TokenUsage) -> bytes:
        reason, stop = self._reason(self._end)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        # The server's own count of the prompt comes with the end.
        counts: dict[str, Any] = {"input_tokens": tokens.prompt, "output_tokens": tokens.completion}
        counts |= tokens.narrows
        last = {"type": "message_delta", "delta": delta, "usage": counts}
        return _named(last) + _named({"type": "message_stop"})

    def failed(self, problem: ApiError) -> bytes:
        return _named(self.error(problem))

    def error(self, problem: ApiError) -> dict[str, Any]:
        return error_body(problem)

    def ping(self) -> bytes:
        return _named({"type": "ping"})

    def _wanted(self, pieces: Sequence[Piece]) -> list[Piece]:
        self._refused |= any(piece.channel is Channel.REFUSAL for piece in pieces)
        return [
            # A refusal is text here, and a stop reason.
            piece._replace(channel=Channel.CONTENT) if piece.channel is Channel.REFUSAL else piece
            for piece in pieces
            if self._thinking or piece.channel is not Channel.REASONING
        ]

    def _reason(self, end: Ended) -> tuple[str, str | None]:
        if self._refused or end.reason is Finish.CONTENT_FILTER:
            return "refusal", None
        if end.reason is Finish.LENGTH:
            return "max_tokens", None
        if end.stop:
            return "stop_sequence", end.stop
        # Some servers say stop behind a call. A client would wait for ever for its turn.
        if any(block.channel is Channel.TOOL_ARGUMENTS for block in self._blocks.list):
            return "tool_use", None
        return "end_turn", None

    def _message(
        self,
        content: list[dict[str, Any]],
        reason: str | None,
        stop: str | None,
        tokens: TokenUsage,
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": {
                "input_tokens": tokens.prompt,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": tokens.completion,
                **tokens.narrows,
            },
        }

    def _new(self, block: Block) -> dict[str, Any]:
        if block.channel is Channel.TOOL_ARGUMENTS:
            call_id = random_id("toolu_", self._random_bytes)
            return {"type": "tool_use", "id": call_id, "name": block.name, "input": {}}
        if block.channel is Channel.REASONING:
            return {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": "text", "text": ""}

    def _delta(self, block: Block, text: str) -> dict[str, Any]:
        if block.channel is Channel.TOOL_ARGUMENTS:
            return {"type": "input_json_delta", "partial_json": text}
        if block.channel is Channel.REASONING:
            return {"type": "thinking_delta", "thinking": text}
        return {"type": "text_delta", "text": text}

    def _closed(self, block: Block, at: int) -> bytes:
        signed = b""
        if block.channel is Channel.REASONING:
            delta = {"type": "signature_delta", "signature": self._signature()}
            signed = _at("content_block_delta", at, "delta", delta)
        return signed + _named({"type": "content_block_stop", "index": at})

    def _whole_block(self, block: Block) -> dict[str, Any]:
        made = self._new(block)
        if block.channel is Channel.TOOL_ARGUMENTS:
            return made | {"input": _arguments(block.text)}
        if block.channel is Channel.REASONING:
            return made | {"thinking": block.text, "signature": self._signature()}
        return made | {"text": block.text}

    def _signature(self) -> str:
        return base64.b64encode(self._random_bytes(_SIGNATURE_BYTES)).decode("ascii")


def _arguments(text: str) -> dict[str, Any]:
    """ApiError: what the model wrote is no object, which this API cannot say."""
    try:
        return jsonio.parse_object((text or "{}").encode())
    except (ApiError, UnicodeError) as error:
        raise failure_error(Failure.UPSTREAM_MALFORMED) from error


def _named(body: dict[str, Any]) -> bytes:
    return event(body, body["type"])


def _at(kind: str, at: int, name: str, value: dict[str, Any]) -> bytes:
    return _named({"type": kind, "index": at, name: value})
